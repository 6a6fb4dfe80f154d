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
from mmdet_moe.files import ReportError, hold_folder, write_text
from mmdet_moe.hooks import check_fit
from mmdet_moe.hooks.wrappers import unwrapped
from mmdet_moe.layers import MoELayer, moe_layers
from mmdet_moe.layers.checks import ConfigError, check_int
from mmdet_moe.names import GT_ORIGINS
from mmdet_moe.version import __version__

from .attempts import Attempts
from .collect import Collector, collect, evenly_spaced
from .effects import LEAST
from .embedding import embed
from .figures import Illustration, illustrate
from .gallery import Image, extremes, gallery
from .interventions import KINDS, plan
from .joining import make_records
from .parts import PARTS, Parts
from .records import Records
from .subjects import Subject, subject_of
from .tables import Options, make_tables
from .training_log import TrainingLog, find_logs, read_log

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
    pictures have labels). Until all of it is there,
    ``report_parts/`` holds what is known about the pictures. The numbers are
    written before figures and page are made, and what cannot be made of these
    is left out.

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
        ReportError: All is written but for parts that could not be made.
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
        folder / PARTS,
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
    failed = write_files(folder, records, subject, tables, log,
                         embedding=embedding, config=runner.cfg.pretty_text)
    if failed:
        raise ReportError(
            f'the numbers of the report are in {folder}, but parts of it are '
            'missing. --resume makes them again, without another test. ' +
            '; '.join(failed))
    parts.remove()
    return folder / 'report.html'


def write_files(folder: Path, records: Records, subject: Subject, tables: dict,
                log: TrainingLog, *, embedding: str, config: str) -> List[str]:
    """Write a report: its numbers first, then figures and page.

    Args:
        folder: Of the report.
        records, subject: What it is about.
        tables: Its numbers. What has failed is added to its ``notes``.
        log: Of the training.
        embedding: ``'tsne'`` or ``'pca'``, of the gate logits.
        config: Text of the config.

    Returns:
        A sentence for each part that could not be made.
    """
    attempt = Attempts()

    def write_numbers() -> None:
        write_text(folder / 'report.json',
                   json.dumps(tables, indent=1, allow_nan=False))

    write_numbers()
    write_text(folder / 'report.txt', summary(tables))
    figures = illustrate(
        tables, {
            name: attempt(f'The embedding of {name}', embed, records, name,
                          method=embedding, seed=tables['options']['seed'])
            for name in records.layers
        }, log, folder / 'figures', attempt)

    def image(index: int, path: str) -> np.ndarray:
        picture = records.pictures[index]
        pixels = attempt('An image of the page', subject.image, index, path)
        return pixels if pixels is not None else np.full(
            (picture.height, picture.width, 3), 127, np.uint8)

    page = attempt('The page', _page, records, tables, figures, config, image,
                   attempt)
    if page is None:  # none of an earlier report either
        (folder / 'report.html').unlink(missing_ok=True)
    else:
        write_text(folder / 'report.html', page)
    if attempt.failed:
        tables['notes'] = tables['notes'] + attempt.failed
        write_numbers()
    return attempt.failed


def _page(records: Records, tables: dict,
          figures: Dict[str, List[Illustration]], config: str, image: Image,
          attempt: Attempts) -> str:
    """The page, with as many pictures as fit into its limit."""
    rng = np.random.default_rng(tables['options']['seed'])
    content = dict(
        figures=figures,
        extremes={
            name: attempt(f'The crops of {name}', extremes, records, name, rng,
                          image, default=[])
            for name in records.layers
        },
        groupings=records.groupings,
        levels=records.levels,
        least=LEAST,
        config=config)
    without = render('report.html', numbers=tables, pictures=[], **content)
    shown = attempt(
        'The images of the page', gallery, records,
        score_thr=tables['options']['score_thr'],
        image=image,
        room=MOST_BYTES - len(without.encode(errors='backslashreplace')),
        default=[])
    numbers = dict(tables, notes=tables['notes'] + attempt.failed)
    return render('report.html', numbers=numbers, pictures=shown, **content)


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
    return [
        f'The MoE layer {name} is left out: {why}.' if name != GT_ORIGINS else
        'The rule of the training did not say where annotated objects of some '
        f'images belong: {why}.' for name, why in records.left_out.items()
    ]
