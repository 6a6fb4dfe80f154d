"""The report: from a config and a checkpoint to tables, figures and a page."""
import json
import os
from hashlib import sha256
from pathlib import Path
from textwrap import fill
from typing import Collection, Dict, List, Optional, Sequence

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from mmdet.datasets import CocoDataset
from mmengine.dist import barrier, get_rank, is_main_process
from mmengine.fileio import get_local_path
from mmengine.runner import Runner
from pycocotools.coco import COCO
from terminaltables import AsciiTable

from mmdet_moe.files import write_text
from mmdet_moe.hooks.wrappers import unwrapped
from mmdet_moe.layers import MoELayer, moe_layers
from mmdet_moe.layers.checks import ConfigError, check_int
from mmdet_moe.sizes import SIZES
from mmdet_moe.version import __version__
from mmdet_moe.visualization import EXPERT_COLOURS

from .collect import Collector, collect, evenly_spaced
from .embedding import embed
from .experts import check_experts
from .figures import Illustration, illustrate
from .gallery import extremes, gallery
from .interventions import KINDS, plan
from .joining import make_records
from .parts import Parts
from .records import Records
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
    object with the weights of its experts. Until they are there,
    ``report_parts/`` holds what is known about the pictures.

    In several processes each runs a part of the pictures, and the first one
    writes the report; all must see the same working folder.

    Args:
        runner: With a checkpoint to load and a test set in COCO format.
        options: How the numbers are made; the defaults if None.
        interventions: Which kinds of them the detector is run with, out of
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
            pictures; or the test set is no CocoDataset.
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
    check_experts(runner.cfg.load_from, layers)
    log = read_log(
        find_logs(runner.cfg.load_from) if logs is None else logs)
    coco = _annotations(runner.test_dataloader.dataset)
    folder = Path(runner.work_dir)
    runner.call_hook('before_run')  # a hook may hold the weights to use
    runner.load_or_resume()
    runner.call_hook('before_test')
    runner.call_hook('before_test_epoch')
    dataset = runner.test_dataloader.dataset
    collector = Collector(
        model,
        coco=coco,
        classes=dataset.metainfo['classes'],
        img_ids=[
            dataset.get_data_info(i)['img_id'] for i in range(len(dataset))
        ],
        interventions=plan(layers, interventions),
        shown=evenly_spaced(len(dataset), pictures))
    parts = Parts(
        folder / 'report_parts',
        dict(
            model=str(runner.cfg.model),
            test_dataloader=str(runner.cfg.test_dataloader),
            custom_hooks=str(runner.cfg.get('custom_hooks')),
            version=__version__,
            checkpoint=_version(runner.cfg.load_from),
            ann_file=_version(str(dataset.ann_file)),
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
    write_text(folder / 'objects.jsonl', ''.join(
        f'{line}\n' for line in records.lines))
    tables = dict(
        format=FORMAT,
        version=__version__,
        name=Path(runner.cfg.filename).stem,
        checkpoint=Path(runner.cfg.load_from).name,
        ann_file=str(runner.test_dataloader.dataset.ann_file),
        test_set=_fingerprint(records),
        **make_tables(records, options),
        notes=_forced_notes(layers) + _notes(records) + log.notes)
    write_text(folder / 'report.json',
               json.dumps(tables, indent=1, allow_nan=False))
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
        _page(records, tables, figures, runner.cfg.pretty_text))
    parts.remove()
    return page


def _page(records: Records, tables: dict,
          figures: Dict[str, List[Illustration]], config: str) -> str:
    """The page, with as many pictures as fit into its limit."""
    rng = np.random.default_rng(tables['options']['seed'])
    content = dict(
        numbers=tables,
        figures=figures,
        extremes={
            name: extremes(records, name, rng)
            for name in records.layers
        },
        groupings=records.groupings,
        levels=records.levels,
        config=config)
    without = render('report.html', pictures=[], **content)
    shown = gallery(
        records,
        score_thr=tables['options']['score_thr'],
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
    """AP by size, expert x size tables and verdicts, as text."""
    blocks = [
        AsciiTable([
            list(tables['metrics']),
            [
                '-' if x['value'] is None else f'{x["value"]:.3f}'
                for x in tables['metrics'].values()
            ]
        ], tables['name']).table
    ]
    for layer, table in tables['layers'].items():
        sizes = table['objects']['size']
        rows = [['expert', 'importance, %'] + [
            f'{size}, % ({sizes[size]["count"]} objects)' for size in SIZES
        ]]
        for e, importance in enumerate(table['importance']):
            rows.append([str(e), f'{100 * importance:.1f}'] + [
                f'{100 * sizes[s]["weight"][e]:.1f}'
                if sizes[s]['count'] else '-' for s in SIZES
            ])
        blocks.append(AsciiTable(rows, layer).table)
        blocks.append(fill(' '.join(table['verdict']), 79))
    return '\n'.join(blocks) + '\n'


def _fingerprint(records: Records) -> str:
    """Equal for runs over the same pictures and objects."""
    objects = records.objects
    return sha256(json.dumps([
        [[p.img_id, Path(p.path).name] for p in records.pictures],
        records.classes, objects.groups['class'].tolist(),
        objects.box.tolist()
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


def _annotations(dataset) -> COCO:
    if not isinstance(dataset, CocoDataset):
        raise ConfigError(
            'test_dataloader.dataset: the report needs a CocoDataset, there '
            f'is a {type(dataset).__name__}')
    with get_local_path(
            dataset.ann_file, backend_args=dataset.backend_args) as path:
        return COCO(path)


def _notes(records: Records) -> List[str]:
    """What a reader has to know about the data before the tables."""
    notes = []
    notes += [
        f'The MoE layer {name} is left out: {why}.'
        for name, why in records.left_out.items()
    ]
    if len(records.objects) == 0:
        notes.append('The test pictures have no annotated object: there is '
                     'no AP, and nothing to assign.')
        return notes
    absent = [
        name for i, name in enumerate(records.classes)
        if not (records.objects.groups['class'] == i).any()
    ]
    if absent:
        notes.append('No object of these classes is in the test pictures, '
                     'they count for nothing: ' + ', '.join(absent) + '.')
    if 0 in records.metric.coco.anns:
        notes.append('An annotation has the id 0. COCOeval, and so AP here '
                     'and in the log, counts this object as never found: '
                     'number annotations from 1.')
    for i, size in enumerate(SIZES):
        if not (records.objects.groups['size'] == i).any():
            notes.append(f'No test picture has a {size} object, so there is '
                         f'no AP for this size.')
    if len(records.detections) == 0:
        notes.append('Nothing was detected at all: the model is untrained, '
                     'or its score_thr too high.')
    if not records.levels:
        notes.append('The head of this detector does not say which level an '
                     'object belongs to, so tables by level are missing.')
    return notes
