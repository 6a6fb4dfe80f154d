"""The tables of benchmarks/objects.py: means over seeds, with intervals.

Intervals are 95 % confidence intervals over seeds: Welch's of the difference of
two means (scipy.stats.ttest_ind), or of a mean (scipy.stats.ttest_1samp).
"""
from functools import partial
from itertools import product
from typing import Dict, Iterator, List, Sequence

import numpy as np
from scipy.stats import ttest_1samp, ttest_ind
from terminaltables import GithubFlavoredMarkdownTable

#: AP by size.
SIZES = ('AP_S', 'AP_M', 'AP_L')
#: What experts may tell of an object.
PROPERTIES = ('size', 'class', 'domain', 'domain, given the size',
              'class, given the domain')
#: By arm its lines of results.
Results = Dict[str, List[dict]]


def tables(lines: Sequence[dict], arms: Sequence[str]) -> Iterator[str]:
    """AP, what the experts tell, and what they can do, as Markdown.

    Args:
        lines: Of results.
        arms: In the order of the rows; those without a result are left out.
    """
    results = {
        arm: mine for arm in arms
        if (mine := [line for line in lines if line['arm'] == arm])
    }
    twins = {arm: _twin(arm, arms) for arm in arms}
    for make in (partial(_ap, twins=twins), _told, _functions, _domains):
        head, rows = make(results)
        if rows:  # without columns that say nothing
            columns = [c for c in zip(head, *rows) if any(c[1:])]
            yield GithubFlavoredMarkdownTable(list(zip(*columns))).table


def _ap(results: Results, twins: Dict[str, str]):
    against = ['AP - dense', 'AP - wider dense']
    head = ['arm', 'seeds', 'AP', 'S', 'M', 'L', *against]
    keys = ['bbox_mAP', 'bbox_mAP_s', 'bbox_mAP_m', 'bbox_mAP_l']
    if any('domains/bbox_mAP' in line['ap']
           for lines in results.values() for line in lines):
        head, keys = (['arm', 'seeds', 'mean AP of the domains', *against],
                      ['domains/bbox_mAP'])
    ap = {arm: [[100 * line['ap'][key] for line in lines] for key in keys]
          for arm, lines in results.items()}
    return head, [
        [arm, str(len(x[0])), *map(_mean, x),
         *(_difference(x[0], ap.get(other, [[]])[0])
           for other in (twins[arm], _wider(arm)))]
        for arm, x in ap.items()
    ]


def _twin(arm: str, arms: Sequence[str]) -> str:
    """The dense detector that an arm is to be compared with."""
    own = f'{arm.split(",")[0]}, dense'
    twin = own if own in arms else 'dense'
    return '' if arm == twin else twin


def _wider(arm: str) -> str:
    """The dense detector of the same active arithmetic, where there is one:
    that of experts of positions, or of regions."""
    return {'position': 'wider dense',
            'regions': 'regions, wider dense'}.get(arm.split(',')[0], '')


def _told(results: Results):
    head = ['arm', 'layer', *(text for of in PROPERTIES for text in (
        f'{of}, %', f'{of} - random gate', f'{of} - balanced random gate',
        f'{of} - drawn gates')),
        'NMI with the domain', 'living experts', 'importance CV']
    rows = []
    for arm, layer in _layers(results):
        random, balanced = (
            results.get(f'{arm.split(",")[0]}, {kind}random gate', [])
            for kind in ('', 'balanced '))
        told = []
        for of in PROPERTIES:
            mine, *theirs = ([
                _part(line['layers'][layer], of) for line in lines
            ] for lines in (results[arm], random, balanced))
            told += [
                _mean(mine),
                *('' if 'random' in arm else _difference(mine, other)
                  for other in theirs),
                _mean_with_interval([
                    _beyond_drawn(line['layers'][layer], of)
                    for line in results[arm]
                ])
            ]
        rows.append([
            arm, _short(layer), *told,
            _mean([_nmi(line['layers'][layer]) for line in results[arm]], 3),
            *(_mean([line['layers'][layer][key] for line in results[arm]])
              for key in ('living_experts', 'importance_cv'))
        ])
    return head, rows


def _part(table: dict, of: str) -> float:
    """What a layer tells of a property, beyond the level if there are any, in
    per cent of what there is to tell; NaN where that is not known."""
    found = _row(table, of).get('normalised')
    return float('nan') if found is None else 100 * found


def _beyond_drawn(table: dict, of: str) -> float:
    """The same, less what gates tell that are drawn at random and see the same
    features."""
    row = _row(table, of)
    if not row.get('bits') or row.get('random_bits') is None:
        return float('nan')
    return 100 * row['normalised'] * (1 - row['random_bits'] / row['bits'])


def _row(table: dict, of: str) -> dict:
    rows = {row['given_level']: row for row in table['specialisation']
            if row['of'] == of}
    return rows.get(True, rows.get(False, {}))


def _nmi(table: dict) -> float:
    """NMI of expert and domain, NaN where there are no domains."""
    return next((row['nmi'] for row in table['specialisation']
                 if row['of'] == 'domain' and not row['given_level']
                 and 'nmi' in row), float('nan'))


def _functions(results: Results):
    head = ['arm', 'layer', 'losses below 0, of all', 'largest loss, points',
            'pairs doubly dissociated: without them', 'by chance',
            'by domain', 'by domain, by chance',
            'with others in their place', 'pairs not interchangeable',
            'AP lost with experts drawn']
    rows = []
    for arm, layer in _layers(results):
        parts, worst, counts = [], [], []
        for line in results[arm]:
            table = line['layers'][layer]
            lost = [x for groups in table['without']
                    for x in groups.values() if x[1] is not None]
            below = [value for value, _, high in lost if high < 0]
            parts.append(100 * len(below) / max(1, len(lost)))
            worst.append(100 * min(below, default=0))
            counts.append(_pairs(table['functions']))
        rows.append([arm, _short(layer), _mean(parts) + ' %', _mean(worst),
                     *map(_mean, zip(*counts)), _mean_with_interval([
                         _lost_by_drawn(line['layers'][layer])
                         for line in results[arm]
                     ])])
    return head, rows


def _lost_by_drawn(table: dict) -> float:
    """Points of AP; NaN if it is not known."""
    found = table['functions'].get('at_random', {}).get('all objects')
    return 100 * found[0] if found else float('nan')


def _pairs(functions: dict) -> List[float]:
    """Numbers of pairs; NaN for what was not known yet."""
    without = functions['dissociations']
    by_domain = functions.get('dissociations_by', {}).get('domain', {})
    return [len(without['found']), without.get('by_chance', float('nan')),
            len(by_domain['found']) if by_domain else float('nan'),
            by_domain.get('by_chance', float('nan')),
            len(functions['dissociations_by_others']['found']),
            len(functions['not_interchangeable'])]


def _domains(results: Results):
    """AP of each domain."""
    of = [key.split('/')[0] for line in next(iter(results.values()), [])[:1]
          for key in line['ap']
          if key.endswith('/bbox_mAP') and not key.startswith('domains')]
    return ['arm', *of], [
        [arm, *(_mean([100 * line['ap'][f'{domain}/bbox_mAP']
                       for line in lines]) for domain in of)]
        for arm, lines in results.items()
    ] if of else []


def _layers(results: Results):
    """Pairs of an arm and one of its layers."""
    for arm, lines in results.items():
        yield from product([arm], lines[0]['layers'])


def _short(layer: str) -> str:
    """Subnet, and level where each has a layer of its own; or module."""
    *_, module, last = layer.split('.')
    subnet = next((x for x in ('cls', 'reg') if f'{x}_' in layer), None)
    return (module if subnet is None else
            f'{subnet} {last}' if last.isdigit() else subnet)


def _mean(values: Sequence[float], digits: int = 1) -> str:
    values = np.array(values)
    if np.isnan(values).any():
        return ''
    spread = (f' ± {values.std(ddof=1):.{digits}f}'
              if len(values) > 1 else '')
    return f'{values.mean():.{digits}f}{spread}'


def _mean_with_interval(values: Sequence[float]) -> str:
    if len(values) < 2 or np.isnan(values).any():
        return ''
    low, high = ttest_1samp(values, 0).confidence_interval()
    return f'{np.mean(values):+.1f} [{low:+.1f}, {high:+.1f}]'


def _difference(values: Sequence[float], others: Sequence[float]) -> str:
    if min(len(values), len(others)) < 2 or np.isnan([*values, *others]).any():
        return ''
    low, high = ttest_ind(values, others,
                          equal_var=False).confidence_interval()
    return (f'{np.mean(values) - np.mean(others):+.1f} '
            f'[{low:+.1f}, {high:+.1f}]')
