"""From a config file to a runner: what the tools have in common."""
import argparse
import os
import re
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, List, Optional, Sequence

import torch
from mmengine.config import Config, DictAction
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from mmengine.utils import is_installed

from .conversion import UpcycleInit
from .datasets.checks import check_coco_dataset, type_name
from .files import DataError
from .layers.checks import ConfigError


def add_arguments(parser: argparse.ArgumentParser,
                  launcher: bool = True) -> None:
    """Add the options that MMDetection's tools share.

    Args:
        parser: Of the tool.
        launcher: Whether the tool runs in several processes as well.
    """
    parser.add_argument('--work-dir', help='folder for what is written')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings of the config to override, as key=value')
    if launcher:
        parser.add_argument(
            '--launcher',
            choices=('none', 'pytorch', 'slurm', 'mpi'),
            default='none',
            help='how the processes are started')
        # torch's launcher gives it, or sets the variable itself.
        parser.add_argument(
            '--local_rank', '--local-rank', type=int, default=0)


def read_config(path: str) -> Config:
    """Read a config file, or one that an installed package has.

    Args:
        path: A file, or the package and the name of the config in it, as in
            ``'mmdet::yolox/yolox_s_8xb8-300e_coco.py'``.

    Raises:
        DataError: The package is not installed, or the name is none.
        FileNotFoundError: There is no such config.
    """
    package, separator, _ = path.partition('::')
    if not separator:
        return Config.fromfile(path)
    if not is_installed(package):  # MMEngine would install what has the name
        raise DataError(f'{path}: the package {package} is not installed')
    try:
        return get_config(path)
    except ValueError as error:
        raise DataError(f'{path} does not name a config: {error}') from None


def load_config(path: str,
                *,
                work_dir: Optional[str] = None,
                cfg_options: Optional[dict] = None,
                launcher: str = 'none',
                local_rank: int = 0,
                checkpoint: Optional[str] = None) -> Config:
    """Read a config and apply what was said on the command line.

    ``path`` is as of :func:`read_config`.
    The working folder is, in this order: ``work_dir``, that of the config,
    ``work_dirs/{name of the config}``. An ExpertAssignmentMetric without an
    ``outfile`` writes ``expert_assignment.json`` there. ``checkpoint`` is
    what will be loaded, for testing.

    Raises:
        DataError: The checkpoint is not there, or is none.
    """
    cfg = read_config(path)
    cfg.launcher = launcher
    os.environ.setdefault('LOCAL_RANK', str(local_rank))
    if cfg_options is not None:
        cfg.merge_from_dict(cfg_options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(path).stem))
    for key in ('val_evaluator', 'test_evaluator'):
        for metric in _metrics(cfg, key):
            if (type_name(metric) == 'ExpertAssignmentMetric'
                    and metric.get('outfile') is None):
                metric.outfile = str(
                    Path(cfg.work_dir, 'expert_assignment.json'))
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        cfg.load_from = checkpoint
    return cfg


def build_runner(cfg: Config, loaders: Sequence[str]) -> Runner:
    """The runner of a config, after a check of its data and channels.

    A training that is to be resumed goes on from what
    :func:`choose_checkpoint` finds. Its model, if it is upcycled, does not
    need the dense checkpoint any more.

    Args:
        cfg: The config.
        loaders: The data loaders that will be used, out of ``train``,
            ``val``, ``test``.

    Raises:
        DataError: See :func:`.check_coco_dataset` and
            :func:`choose_checkpoint`.
        ValueError: The neck's and the head's channels differ, or whatever
            the model's parts find wrong in their arguments.
    """
    _check_channels(cfg.model)
    # A large annotation file is read by one process of several.
    if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
        for name in loaders:
            loader = cfg.get(f'{name}_dataloader')
            if loader is None:  # training without validation
                continue
            check_coco_dataset(f'{name}_dataloader.dataset', loader.dataset)
            for i, metric in enumerate(_metrics(cfg, f'{name}_evaluator')):
                ann_file = metric.get('ann_file')
                if ann_file and '://' not in ann_file and not os.path.exists(
                        ann_file):
                    raise DataError(
                        f'{name}_evaluator[{i}].ann_file: {ann_file} does not '
                        'exist; it should be the annotation file of '
                        f'{name}_dataloader')
    if 'runner_type' in cfg:
        return RUNNERS.build(cfg)
    if 'train' not in loaders or not cfg.get('resume'):
        return Runner.from_cfg(cfg)
    how = choose_checkpoint(cfg)
    runner = Runner.from_cfg(cfg)
    if how is not None:
        print_log(how, 'current')
        for dense in UpcycleInit.leave_out(runner.model):
            print_log(f'not upcycled from {dense}, as the training is resumed',
                      'current')
    return runner


def choose_checkpoint(cfg: Config) -> Optional[str]:
    """Set ``cfg.load_from`` to the checkpoint that a training is resumed from.

    If none is set, it is the one that ``last_checkpoint`` in the work folder
    names. If that is missing or was cut off, it is the newest whole one.

    Returns:
        A line for the log that says what was chosen; None if there is no
        checkpoint, so that the training begins.

    Raises:
        DataError: There are checkpoints, but none is whole.
    """
    if cfg.get('load_from') is not None:
        check_checkpoint(cfg.load_from)
        return f'resuming from {cfg.load_from}'
    broken = []
    for path in _checkpoints(cfg):
        if '://' in path or _is_whole(path):
            cfg.load_from = path
            why = ''.join(f'; {reason}' for reason in broken)
            return f'resuming from {path}, the newest whole checkpoint{why}'
        broken.append(f'{path} is ' +
                      ('not whole' if os.path.exists(path) else 'missing'))
    if broken:
        raise DataError('there is no checkpoint to resume from: ' +
                        ', '.join(broken) + '. To begin anew, remove '
                        f'{cfg.work_dir} or leave out --resume')
    return None


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the program with one line where a file or a setting is to blame."""
    try:
        yield
    except (DataError, ConfigError) as error:
        sys.exit(f'error: {error}')
    except (AssertionError, OSError) as error:
        # A data loader's worker sends its traceback as the text of the error;
        # the message is at its end.
        unreadable = re.findall(r'failed to load image: (.+)', str(error))
        missing = re.findall(r"No such file or directory: '(.+?)'", str(error))
        if unreadable:
            sys.exit(f'error: the picture {unreadable[-1]} cannot be read; is '
                     'the file complete and a picture?')
        if missing:
            sys.exit(f'error: {missing[-1]} does not exist')
        if isinstance(error, FileNotFoundError):
            sys.exit(f'error: {error}')
        raise


def check_checkpoint(path: str) -> None:
    """Refuse a file that is no checkpoint.

    Raises:
        DataError: It is not there, not whole, or would run code.
    """
    if '://' in path:
        return
    path = os.path.expanduser(path)  # as MMEngine does
    if not os.path.isfile(path):
        raise DataError(f'the checkpoint {path} does not exist')
    # torch writes zip archives; a file that was cut off is no zip any more.
    if not zipfile.is_zipfile(path):
        try:
            # Only weights: anything else may be code, which would be run.
            torch.load(path, map_location='cpu', weights_only=True)
        except Exception:
            raise DataError(
                f'{path} is not a checkpoint, or is not complete, or is one '
                'of torch before 1.6 that holds more than tensors, numbers '
                'and texts: to read that could run code') from None


def _checkpoints(cfg: Config) -> List[str]:
    """Paths of the checkpoints of the work folder, the newest first.

    The first is the one that ``last_checkpoint`` names, as MMEngine would
    take it; it may be missing, or in another folder. The others follow by
    the time when they were written.
    """
    note = Path(cfg.work_dir, 'last_checkpoint')
    last = note.read_text().strip() if note.is_file() else ''
    if '://' in last:
        return [last]
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    # Not the best ones: they hold no state of the optimizer.
    template = hook.get('filename_tmpl')
    templates = [template] if template else ['epoch_{}.pth', 'iter_{}.pth']
    pattern = '|'.join(
        re.escape(t).replace(r'\{\}', r'\d+') for t in templates)
    # CheckpointHook.out_dir is elsewhere, and the last one lies there.
    folders = [Path(cfg.work_dir)] + ([Path(last).parent] if last else [])
    found = {
        path.resolve(): path
        for folder in folders if folder.is_dir()
        for path in folder.iterdir() if re.fullmatch(pattern, path.name)
    }
    found.pop(Path(last).resolve(), None)

    def age(path: Path) -> tuple:
        # The same name: the folder was moved. Written at once: 10 is after 9.
        return (path.name == Path(last).name, path.stat().st_mtime,
                len(path.name), path.name)

    return ([last] if last else []) + [
        str(path) for path in sorted(found.values(), key=age, reverse=True)
    ]


def _is_whole(path: str) -> bool:
    """Whether a file is a zip archive, as torch writes it, to its end."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # depends on where it was cut off
        return False


def _metrics(cfg: Config, key: str) -> list:
    evaluator = cfg.get(key) or []
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator)


def _check_channels(model: dict) -> None:
    neck, head = model.get('neck') or {}, model.get('bbox_head') or {}
    if not (isinstance(neck, dict) and isinstance(head, dict)):
        return
    given, taken = neck.get('out_channels'), head.get('in_channels')
    if given is not None and taken is not None and given != taken:
        raise ConfigError(
            f'model.bbox_head.in_channels={taken}: allowed is {given}, the '
            'value of model.neck.out_channels')
