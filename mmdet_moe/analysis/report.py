"""The report: from a config and a checkpoint to tables, figures and a page."""
import json
import os
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from textwrap import fill
from typing import Collection, Dict, List, Optional, Sequence

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from mmengine.dist import barrier, get_rank, is_main_process
from mmengine.runner import Runner
from terminaltables import AsciiTable

from mmdet_moe.colours import EXPERT_COLOURS
from mmdet_moe.files import hold_folder, write_text
from mmdet_moe.hooks import check_fit
from mmdet_moe.hooks.wrappers import unwrapped
from mmdet_moe.layers import MoELayer, moe_layers
from mmdet_moe.layers.checks import ConfigError, check_int
from mmdet_moe.version import __version__

from .collect import Collector, collect, evenly_spaced
from .effects import LEAST
from .embedding import embed
from .figures import Illustration, illustrate
from .gallery import extremes, gallery
from .interventions import KINDS, plan
from .joining import make_records
from .parts import Parts
from .records import Records
from .subjects import Subject, subject_of
from .tables import Options, make_tables
from .training_log import find_logs, read_log

#: What the JSON file of a report is recognised by.
FORMAT = 'mmdet_moe report'
#: Of the page.
MOST_BYTES = 24_000_000


def write_report(runner: Runner,
                 options: Optional[Options] = None,
                 *,
                 interventions: Collection[str] = tuple(KINDS),
                 pictures: int = 40,
                 embedding: str = 'tsne',
                 logs: Optional[Sequence[Path]] = None,
                 resume: bool = False) -> Optional[Path]:
    """Run the test pictures and write what came out to the working folder.

    ``report.html`` is one self-contained page; ``report.json`` holds its
    numbers, ``report.txt`` the most important tables, ``figures/`` the
    figures as PNG and PDF, and ``objects.jsonl`` a line for each annotated
    object with the weights of its experts (``pictures.jsonl`` where whole
    pictures have labels). Until they are there,
    ``report_parts/`` holds what is known about the pictures.

    In several processes each runs a part of the pictures, and the first one
    writes the report; all must see the same working folder.

    Args:
        runner: With a checkpoint to load, and a test set that a
            :class:`.Subject` is about.
        options: How the numbers are made; the defaults if None.
        interventions: Which kinds of them the model is run with, out of
            ``KINDS``.
        pictures: How many test pictures are shown, if they fit.
        embedding: ``'tsne'`` or ``'pca'``, of the gate logits.
        logs: ``scalars.json`` of the training; by default those of the runs
            that wrote into the checkpoint's folder.
        resume: Go on with a report that was cut off.

    Returns:
        The page; None in the other processes.

    Raises:
        ValueError: The model has no MoE layer, or none that decides about
            pictures; or nothing is known about test sets of this kind.
        DataError: The checkpoint is not one of this model, or has NaNs; what
            is to be resumed is another report.
    """
    options = Options() if options is None else options
    check_int('pictures', pictures, 0)
    model = unwrapped(runner.model)
    layers = moe_layers(model)
    if not layers:
        raise ConfigError(
            f'{runner.cfg.filename}: the model has no MoE layer, so there is '
            'nothing to report; test it with tools/test.py')
    log = read_log(
        find_logs(runner.cfg.load_from) if logs is None else logs)
    subject = subject_of(runner)
    if options.score_thr is None:
        options = replace(options, score_thr=subject.score_thr)
    folder = Path(runner.work_dir)
    if is_main_process():
        hold_folder(folder, 'report')
    check_fit(runner)
    runner.call_hook('before_run')  # a hook may hold the weights to use
    runner.load_or_resume()
    runner.call_hook('before_test')
    runner.call_hook('before_test_epoch')
    collector = Collector(
        model,
        subject,
        interventions=plan(layers, interventions),
        shown=evenly_spaced(len(subject.img_ids), pictures))
    parts = Parts(
        folder / 'report_parts',
        dict(
            model=str(runner.cfg.model),
            test_dataloader=str(runner.cfg.test_dataloader),
            custom_hooks=str(runner.cfg.get('custom_hooks')),
            version=__version__,
            checkpoint=_version(runner.cfg.load_from),
            files=[_version(path) for path in subject.files],
            interventions=list(map(str, collector.interventions)),
            shown=collector.shown),
        rank=get_rank(),
        resume=resume)
    barrier()  # the folder is ready
    collect(runner, collector, parts)
    barrier()
    if not is_main_process():
        return None
    records = make_records(collector, parts.read())
    write_text(folder / f'{subject.words.things}.jsonl', ''.join(
        f'{line}\n' for line in records.lines))
    tables = dict(
        format=FORMAT,
        version=__version__,
        name=Path(runner.cfg.filename).stem,
        checkpoint=Path(runner.cfg.load_from).name,
        source=subject.source,
        test_set=_fingerprint(records, subject),
        **make_tables(records, options),
        notes=_forced_notes(layers) + _left_out(records) +
        subject.notes(records) + log.notes)
    write_text(folder / 'report.txt', summary(tables))
    figures = illustrate(
        tables, {
            name: embed(records, name, method=embedding, seed=options.seed)
            for name in records.layers
        }, log)
    for illustration in sum(figures.values(), []):
        illustration.save(folder / 'figures')
    page = write_text(
        folder / 'report.html',
        _page(records, subject, tables, figures, runner.cfg.pretty_text))
    # The last one: where it is, all is.
    write_text(folder / 'report.json',
               json.dumps(tables, indent=1, allow_nan=False))
    parts.remove()
    return page


def _page(records: Records, subject: Subject, tables: dict,
          figures: Dict[str, List[Illustration]], config: str) -> str:
    """The page, with as many pictures as fit into its limit."""
    rng = np.random.default_rng(tables['options']['seed'])
    content = dict(
        numbers=tables,
        figures=figures,
        extremes={
            name: extremes(records, name, rng, subject.image)
            for name in records.layers
        },
        groupings=records.groupings,
        levels=records.levels,
        least=LEAST,
        config=config)
    without = render('report.html', pictures=[], **content)
    shown = gallery(
        records,
        score_thr=tables['options']['score_thr'],
        image=subject.image,
        room=MOST_BYTES - len(without.encode()))
    return render('report.html', pictures=shown, **content)


def render(template: str, **content) -> str:
    """A page from a template of this package."""
    environment = Environment(
        loader=PackageLoader('mmdet_moe.analysis'),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True)
    colours = ['#{:02x}{:02x}{:02x}'.format(*c) for c in EXPERT_COLOURS]
    return environment.get_template(template).render(
        colours=colours, **content)


def summary(tables: dict) -> str:
    """The metric, a table of the experts and verdicts, as text."""
    blocks = [
        AsciiTable([
            list(tables['metrics']),
            [
                '-' if x['value'] is None else f'{x["value"]:.3f}'
                for x in tables['metrics'].values()
            ]
        ], tables['name']).table
    ]
    words = tables['words']
    for layer, table in tables['layers'].items():
        groups = table['labelled'][words['by']]
        rows = [['expert', 'importance, %'] + [
            f'{name}, % ({row["count"]} {words["things"]})'
            for name, row in groups.items()
        ]]
        for e, importance in enumerate(table['importance']):
            rows.append([str(e), f'{100 * importance:.1f}'] + [
                f'{100 * row["weight"][e]:.1f}' if row['count'] else '-'
                for row in groups.values()
            ])
        blocks.append(AsciiTable(rows, layer).table)
        blocks.append(fill(' '.join(table['verdict']), 79))
    return '\n'.join(blocks) + '\n'


def _fingerprint(records: Records, subject: Subject) -> str:
    """Equal for runs over the same pictures with the same annotations."""
    things = records.labelled
    return sha256(json.dumps([
        [[p.img_id, Path(p.path).name] for p in records.pictures],
        records.classes, things.groups['class'].tolist(),
        [sha256(Path(path).read_bytes()).hexdigest()
         for path in subject.files] if things.box is None else
        things.box.tolist()
    ]).encode()).hexdigest()[:16]


def _version(path: str) -> list:
    """Another one for a file that was written since."""
    if '://' in path:
        return [path]
    path = os.path.abspath(os.path.expanduser(path))
    status = os.stat(path)
    return [path, status.st_size, status.st_mtime_ns]


def _forced_notes(layers: Dict[str, MoELayer]) -> List[str]:
    forced = [
        name for name, layer in layers.items() if layer.forcing is not None
    ]
    return [
        'The config overrules the gates of these layers (MoEHook.forcing), in '
        'everything that is called "as it is" too: ' + ', '.join(forced) + '.'
    ] if forced else []


def _left_out(records: Records) -> List[str]:
    return [f'The MoE layer {name} is left out: {why}.'
            for name, why in records.left_out.items()]
