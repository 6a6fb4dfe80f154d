"""Checkpoints: which one a training is resumed from, and how they are kept."""
import os
import re
import zipfile
from pathlib import Path
from typing import List, Optional

from mmengine.config import Config

from .config_parts import type_name
from .files import DataError
from .trust import check_checkpoint


def choose_checkpoint(cfg: Config) -> Optional[str]:
    """Set ``cfg.load_from`` to the checkpoint that a training is resumed from.

    If none is set, it is the one that ``last_checkpoint`` in the work folder
    names. If that is missing or was cut off, it is the newest whole one. If
    there is none at all, the training begins, with the weights of
    ``cfg.begin_with`` if there are any.

    Another runner (``cfg.runner_type``) has checkpoints of its own form, and
    takes what is set or named without this look at it.

    Returns:
        A line for the log that says what was chosen; None if there is no
        checkpoint.

    Raises:
        DataError: There are checkpoints, but none is whole.
    """
    how = _named(cfg) if 'runner_type' in cfg else _newest_whole(cfg)
    if how is None and cfg.get('begin_with') is not None:
        cfg.load_from, cfg.resume = cfg.begin_with, False
    return how


def _named(cfg: Config) -> Optional[str]:
    note = Path(cfg.work_dir, 'last_checkpoint')
    path = cfg.get('load_from') or (
        note.read_text().strip() if note.is_file() else None)
    return None if path is None else f'resuming from {path}'


def _newest_whole(cfg: Config) -> Optional[str]:
    if cfg.get('load_from') is not None:
        check_checkpoint(cfg.load_from)
        return f'resuming from {cfg.load_from}'
    broken = []
    for path in _checkpoints(cfg):
        if '://' in path or _is_whole(path):
            check_checkpoint(path)
            cfg.load_from = path
            why = '; '.join(broken)
            return f'resuming from {path}' + (
                f', the newest whole checkpoint; {why}' if broken else '')
        broken.append(f'{path} is ' +
                      ('not whole' if os.path.exists(path) else 'missing'))
    if broken:
        raise DataError('there is no checkpoint to resume from: ' +
                        ', '.join(broken) + '. To begin anew, remove '
                        f'{cfg.work_dir} or leave out --resume')
    return None


def keep_safe(cfg: Config) -> None:
    """Have a training keep its checkpoints whole, resume as if it had not
    been cut off, and stop where its loss is no number; see
    :class:`.WholeFiles`, :class:`.SeedHook`, :class:`.FiniteLossHook` and
    :class:`.PlainCheckpointHook`.

    A hook or a backend that the config names stays what it is.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint')
    if hook and type_name(hook) == 'CheckpointHook' and (
            hook.get('backend_args') is None
            and hook.get('file_client_args') is None
            and '://' not in (hook.get('out_dir') or '')):
        hook.backend_args = dict(backend='WholeFiles')
    hooks = list(cfg.get('custom_hooks') or [])
    there = {type_name(hook) for hook in hooks}
    cfg.custom_hooks = hooks + [
        dict(type=name) for name in (
            'SeedHook', 'FiniteLossHook', 'PlainCheckpointHook')
        if name not in there
    ]


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
    folders = [Path(cfg.work_dir)] + ([Path(last).parent] if last else [])
    elsewhere = hook.get('out_dir')
    if elsewhere and '://' not in elsewhere:  # CheckpointHook makes this of it
        folders.append(Path(elsewhere, Path(cfg.work_dir).name))
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
