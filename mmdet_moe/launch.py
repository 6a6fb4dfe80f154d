"""From a config file to a runner: what the tools have in common."""
import atexit
import gc
import logging
import os
import re
import sys
import warnings
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from pickle import UnpicklingError
from traceback import walk_tb
from typing import Iterator, Optional, Sequence
from urllib.error import URLError

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import print_log
from mmengine.registry import RUNNERS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import is_installed
from torch import nn

from .config_parts import metrics_of, packaged_file, type_name
from .conversion import UpcycleInit
from .files import DataError, ReportError, TrainingError, hold_folder
from .hooks import check_batches, check_fit
from .layers.checks import ConfigError, fail
from .layers.distributed import launched_rank
from .resuming import choose_checkpoint, keep_safe
from .trust import check_checkpoint, load_weights_only

#: By the scope of a config the module that knows what can be wrong with it.
#: Those of MMRotate and MMYOLO hold detectors of MMDetection's interface.
CHECKS = dict(mmdet='mmdet_moe.detection.checks',
              mmrotate='mmdet_moe.detection.checks',
              mmyolo='mmdet_moe.detection.checks',
              mmpretrain='mmdet_moe.classification.checks')


#: What a config may have beside the arguments of MMEngine's Runner.
OTHER_KEYS = ('auto_scale_lr', 'begin_with', 'compile', 'custom_imports',
              'find_unused_parameters', 'model_wrapper_cfg', 'runner_type',
              'strategy', 'tta_model', 'tta_pipeline')


def read_config(path: str) -> Config:
    """Read a config file, or one that an installed package has.

    Args:
        path: A file, or the package and the name of the config in it, as in
            ``'mmdet::yolox/yolox_s_8xb8-300e_coco.py'``.

    Raises:
        DataError: The package is not installed, or the name is none; or what
            the file says cannot be carried out.
        FileNotFoundError: There is no such config.
    """
    try:
        return _read_config(path)
    except (DataError, FileNotFoundError):
        raise
    except Exception as error:  # a config is a program
        raise DataError(f'the config {path} cannot be read: '
                        f'{type(error).__name__}: {error}') from error


def _read_config(path: str) -> Config:
    package, separator, _ = path.partition('::')
    if not separator:
        return Config.fromfile(path)
    if not is_installed(package):  # MMEngine would install what has the name
        raise DataError(f'{path}: the package {package} is not installed')
    try:
        return get_config(path)
    except (ValueError, AssertionError):
        # The package's index of models does not list all of its configs.
        file = packaged_file(path)
        if file.is_file():
            return Config.fromfile(file)
        raise DataError(f'{path} does not name a config of the package '
                        f'{package}') from None


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
        _check_options(cfg, cfg_options)
        cfg.merge_from_dict(cfg_options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(path).stem))
    for key in ('val_evaluator', 'test_evaluator'):
        for metric in metrics_of(cfg, key):
            if (type_name(metric) == 'ExpertAssignmentMetric'
                    and metric.get('outfile') is None):
                metric.outfile = str(
                    Path(cfg.work_dir, 'expert_assignment.json'))
    if checkpoint is not None:
        check_checkpoint(checkpoint)
        cfg.load_from = checkpoint
    return cfg


def _check_options(cfg: Config, options: dict) -> None:
    """Say which settings have no effect, as far as it is known."""
    known = {*signature(Runner.__init__).parameters, *OTHER_KEYS}
    for key in options:
        top = key.partition('.')[0]
        if top in known:
            continue
        warnings.warn(
            f'--cfg-options {key}: {top} is a variable of the config file; '
            'settings that were computed from it keep their values'
            if top in cfg else f'--cfg-options {key}: the config has no {top}')


def use_mixed_precision(cfg: Config) -> None:
    """Train in mixed precision, in the form that there is on this machine.

    Raises:
        ConfigError: The config has an optimizer wrapper of its own kind.
    """
    wrapper = cfg.optim_wrapper
    if type_name(wrapper) not in ('None', 'OptimWrapper', 'AmpOptimWrapper'):
        fail('optim_wrapper.type', wrapper.type,
             "'OptimWrapper' where mixed precision is asked for")
    if torch.cuda.is_available():
        wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    else:
        wrapper.type = 'BFloat16OptimWrapper'
        for key in ('loss_scale', 'dtype', 'use_fsdp'):  # AmpOptimWrapper's
            wrapper.pop(key, None)


def _start_processes(cfg: Config) -> None:
    """Without a GPU, join the processes that torch's launcher has started;
    MMEngine would look for one."""
    if cfg.get('launcher', 'none') == 'none' or torch.cuda.is_available():
        return
    if cfg.launcher != 'pytorch':
        fail('--launcher', cfg.launcher, "'pytorch' on a machine without a GPU")
    if not dist.is_initialized():
        dist.init_process_group('gloo')
        atexit.register(_leave)
    cfg.setdefault('model_wrapper_cfg', dict(
        type='MMDistributedDataParallel', device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False)))


def _leave() -> None:
    """Leave the group of processes: its threads, which an error's traceback
    may keep, may not outlive the interpreter."""
    gc.collect()
    dist.destroy_process_group()


def build_runner(cfg: Config, loaders: Sequence[str]) -> Runner:
    """The runner of a config, after a check of its data and settings.

    A training that is to be resumed goes on from what
    :func:`choose_checkpoint` finds. Its model, if it is upcycled, does not
    need the dense checkpoint any more.

    Args:
        cfg: The config.
        loaders: The data loaders that will be used, out of ``train``,
            ``val``, ``test``.

    Raises:
        DataError, ValueError: See the ``check_config`` of ``CHECKS``, and
            :func:`choose_checkpoint`; or whatever the model's parts find wrong
            in their arguments.
    """
    _start_processes(cfg)
    scope = cfg.get('default_scope', 'mmdet')
    checks = CHECKS.get(scope)
    if checks is not None:
        init_default_scope(scope)
        import_module(checks).check_config(cfg, loaders)
    if 'train' in loaders:
        if cfg.get('work_dir') and launched_rank() == 0:
            hold_folder(cfg.work_dir, 'training')
        keep_safe(cfg)
    how, anew = None, ''
    if 'train' in loaders and cfg.get('resume'):
        how = choose_checkpoint(cfg)
        if how is None:
            anew = (f'--resume: there is no checkpoint in {cfg.work_dir}, so '
                    'the training begins anew' + (
                        f', with the weights of {cfg.load_from}'
                        if cfg.get('load_from') else ''))
    elif cfg.get('load_from') is not None and 'runner_type' not in cfg:
        check_checkpoint(cfg.load_from)
    try:
        runner = RUNNERS.build(cfg) if 'runner_type' in cfg else (
            Runner.from_cfg(cfg))
    except KeyError as error:
        if 'registry' not in str(error):
            raise
        raise ConfigError(
            f'{error.args[0].split(". ")[0]}. Where types are looked for is '
            f'default_scope={cfg.get("default_scope")!r}: configs of detectors '
            "have 'mmdet' there, and those of classifiers 'mmpretrain', as "
            'their stock configs do') from None
    if set(loaders) == {'test'} and isinstance(runner.model, nn.Module):
        check_fit(runner)
    if isinstance(runner, Runner):
        check_batches(runner, loaders)
    if anew:
        print_log(anew, 'current', logging.WARNING)
    if how is not None:
        print_log(how, 'current')
    if how is not None and isinstance(runner.model, nn.Module):
        for dense in UpcycleInit.leave_out(runner.model):
            print_log(f'not upcycled from {dense}, as the training is resumed',
                      'current')
    return runner


def _where(error: Exception) -> str:
    """The innermost module that an error came from: its name in the outermost
    one, and its type."""
    found = [frame.f_locals.get('self')
             for frame, _ in walk_tb(error.__traceback__)]
    modules = [x for x in found if isinstance(x, nn.Module)]
    if not modules:
        return 'a layer'
    names = {module: name for name, module in modules[0].named_modules()}
    name = names.get(modules[-1], '').removeprefix('module.')
    return f'{name} ({type(modules[-1]).__name__})'


@contextmanager
def clear_errors() -> Iterator[None]:
    """End the program with one line where a file or a setting is to blame.

    Checkpoints are read without running what is in them, see :mod:`.trust`.
    """
    load_weights_only()
    try:
        yield
    except (DataError, ConfigError, ReportError, TrainingError) as error:
        sys.exit(f'error: {error}')
    except UnpicklingError as error:
        sys.exit(f'error: a checkpoint cannot be read: {error}')
    except ValueError as error:
        if 'more than 1 value per channel' not in str(error):
            raise
        sys.exit(
            f'error: {_where(error)}: in training it cannot normalise a single '
            f'value per channel ({error}). Use a larger batch_size or larger '
            "images, or norm_cfg=dict(type='GN', ...): an expert may get a "
            'single sample of a batch')
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
        if isinstance(error, FileNotFoundError) or (
                getattr(error, 'errno', None) is not None
                and not isinstance(error, URLError)):
            sys.exit(f'error: {error}')  # no space, no right, no such file
        if isinstance(error, URLError):
            sys.exit(f'error: something cannot be fetched ({error.reason}). '
                     'If it is weights, name a file in the place of the '
                     'address, as model.backbone.init_cfg.checkpoint or '
                     'load_from, or do without, with '
                     'model.backbone.init_cfg=None; if it is a data set, put '
                     'it into its data_root')
        raise
