"""Runs side by side: what balance costs, and what it brings."""
import json
from contextlib import contextmanager
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Iterator, List, Sequence

import numpy as np
from jinja2 import UndefinedError
from terminaltables import AsciiTable

from mmdet_moe.files import DataError, write_text

from .figures import comparison_figure
from .report import FORMAT, render
from .stability import Profile, stability
from .subjects import TESTS

#: What is read of a report.
KEYS = ('name', 'words', 'metrics', 'layers', 'interventions')
#: Columns of p-values, of which a mean would say nothing.
P_VALUES = ('p', 'p, random gates', 'p given level')


def read_run(run: str) -> dict:
    """A run out of a ``report.json``, or of the JSON file of a test.

    Args:
        run: ``FILE``, or ``NAME=FILE``.

    Returns:
        ``name``, ``words``, ``metrics`` and ``layers`` as in a report;
        ``layers`` is empty for the JSON file of a test.

    Raises:
        DataError: The file is not there, or neither of the two.
    """
    path, name = Path(run), ''
    if not path.exists() and '=' in run:
        name, _, file = run.partition('=')
        path = Path(file)
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except OSError:
        raise DataError(f'the run {path} does not exist or cannot be '
                        'read') from None
    except ValueError as error:
        raise DataError(f'{path} is not valid JSON ({error}); is the file '
                        'complete?') from None
    if isinstance(content, dict) and content.get('format') == FORMAT:
        lacking = [key for key in KEYS if key not in content]
        if lacking:
            raise DataError(f'{path} has no {lacking[0]!r}: it is a '
                            'report.json that is not complete')
        return dict(content, name=name or content['name'])
    if isinstance(content, dict):
        for words, read in TESTS:
            values = read(content)
            if values:
                return dict(
                    name=name or path.parent.name,
                    words=asdict(words),
                    metrics={
                        key: dict(value=x, interval=None)
                        for key, x in values.items()
                    },
                    layers={},
                    interventions=[])
    raise DataError(
        f'{path} is neither a report.json of expert_report.py nor the JSON '
        'file that tools/test.py writes into its working folder')


def compare(runs: Sequence[dict], out: Path) -> str:
    """Write the page and its figure, and return the table as text.

    Args:
        runs: As :func:`read_run` gives them.
        out: The page; its figure goes to ``figures/`` beside it.

    Raises:
        DataError: Two runs have one name, or they are of different pictures.
    """
    names = [run['name'] for run in runs]
    for run in runs:
        with _complete(run['name']):
            list(rows_of(run))
    with _complete(' or '.join(names)):
        return _compare(runs, names, out)


@contextmanager
def _complete(names: str) -> Iterator[None]:
    """A key that a report lacks is an error that names it."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError,
            UndefinedError) as error:
        raise DataError(
            f'the report.json of {names} is not complete: '
            f'{type(error).__name__}: {error}. Write it again with '
            'expert_report.py') from error


def _compare(runs: Sequence[dict], names: Sequence[str], out: Path) -> str:
    for name in names:
        if names.count(name) > 1:
            raise DataError(f'two runs have the name {name!r}; give names as '
                            'NAME=FILE')
    reports = [run for run in runs if run['layers']]
    for run in reports[1:]:
        if run.get('test_set') != reports[0].get('test_set'):
            sizes = (f'{r["name"]} ({r["num_images"]} pictures, '
                     f'{r["num_labelled"]} {r["words"]["things"]})'
                     for r in (reports[0], run))
            raise DataError(
                ' and '.join(sizes) + ' were tested on different pictures or '
                'annotations, so they cannot be compared')
    stable = list(_stabilities(reports))
    figure = comparison_figure(runs)
    figure.save(out.parent / 'figures')
    rows = [row for run in runs for row in rows_of(run)]
    columns = columns_of(rows)
    rows = [{key: row.get(key) for key in columns} for row in rows]
    write_text(
        out,
        render('comparison.html', runs=runs, rows=rows, stable=stable,
               figure=figure))
    table = AsciiTable([columns] + [[_cell(x) for x in row.values()]
                                    for row in rows]).table + '\n'
    if stable:
        table += AsciiTable(
            [list(stable[0])] +
            [[_cell(x) for x in row.values()] for row in stable],
            'Stability').table + '\n'
    write_text(out.with_suffix('.txt'), table)
    return table


def _stabilities(reports: Sequence[dict]) -> Iterator[dict]:
    """A row for each pair of runs and each layer that both have."""
    for one, other in combinations(reports, 2):
        for name, layer in one['layers'].items():
            twin = other['layers'].get(name)
            if twin is None or twin['experts'] != layer['experts'] or not (
                    'profile' in layer and 'profile' in twin):
                continue
            found = stability(
                *(Profile(p['groups'], np.array(p['counts']),
                          np.array(p['weights']))
                  for p in (layer['profile'], twin['profile'])),
                rng=np.random.default_rng(0))
            if found is not None:
                yield {
                    'runs': f'{one["name"]}, {other["name"]}',
                    'layer': name,
                    'correlation': found.correlation,
                    'by chance': found.chance,
                    'p': found.p_value,
                    'matches': ' '.join(
                        f'{e}-{m}' for e, m in enumerate(found.matches))
                }


def rows_of(run: dict) -> List[dict]:
    """A row for each layer of a run; one if it has none.

    Metrics, and what dropping an expert costs at most, are in points.
    ``living`` experts are selected at least once, and ``with 1 %`` those with
    that much of the importance.
    """
    metrics = {
        name: None if x['value'] is None else round(100 * x['value'], 6)
        for name, x in run['metrics'].items()
    }
    if not run['layers']:
        return [dict(run=run['name'], **metrics)]
    return [
        dict(
            run=run['name'],
            **metrics,
            layer=name,
            **_usage(layer, run['words']['by']),
            **_worst(run['interventions'], name, run['words']['metric']))
        for name, layer in run['layers'].items()
    ]


def columns_of(rows: Sequence[dict]) -> List[str]:
    """What any row has a value for, in their order."""
    return list(dict.fromkeys(key for row in rows for key, x in row.items()
                              if x not in (None, '')))


def _usage(layer: dict, by: str) -> dict:
    tells = {(row['of'], row['given_level']): row
             for row in layer['specialisation']}
    nothing = dict(bits=None, p_value=None, nmi=None, leading_nmi=None,
                   random_p_value=None)
    free = tells.get((by, False), nothing)
    given = tells.get((by, True), nothing)
    return {
        'living': layer['living_experts'],
        'with 1 %': sum(x >= 0.01 for x in layer['importance']),
        'CV importance': layer['importance_cv'],
        'CV share': layer['share_cv'],
        'input-dependence, bits': layer['input_dependence']['all']['bits'],
        f'tells {by}, bits': free['bits'],
        'NMI': free['nmi'],
        'NMI, leading expert': free['leading_nmi'],
        'p': free['p_value'],
        'p, random gates': free['random_p_value'],
        'given level, bits': given['bits'],
        'p given level': given['p_value']
    }


def _worst(interventions: Sequence[dict], layer: str, metric: str) -> dict:
    """What the metric loses at most if one expert is dropped."""
    losses = [
        # + 0: not "-0", where nothing changes
        round(-100 * row['difference'][metric]['value'], 6) + 0
        for row in interventions
        if row['layer'] == layer and row['kind'] == 'drop'
        and row['difference'][metric]['value'] is not None
    ]
    return {'dropping costs': max(losses) if losses else None}


def _cell(x) -> str:
    if x is None:
        return '-'
    return f'{x:.3g}' if isinstance(x, float) else str(x)
