"""Experts for a stock detector: a small config, and a checkpoint, for it."""
import os
import re
from pathlib import Path
from typing import Any, List, Optional, Sequence

from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_moe.config_parts import packaged_file
from mmdet_moe.detection.detector import add_experts
from mmdet_moe.files import write_text
from mmdet_moe.layers import moe_layers
from mmdet_moe.layers.checks import ConfigError, check_number, fail
from mmdet_moe.models.placing import table_of_experts

from .building import build_here
from .moe_config import experts_of, is_wrapper, moe_config
from .upcycle import check_absent, write_upcycled


def moeify(cfg: Config,
           config: str,
           at: Sequence[str],
           *,
           num_experts: int = 4,
           top_k: int = 2,
           soft_constraint: Sequence[str] = ('KLLoss', ),
           freeze: bool = False,
           out: Optional[str] = None,
           checkpoint: Optional[str] = None,
           checkpoint_out: Optional[str] = None,
           noise: float = 0.01,
           command: Sequence[str] = ()) -> str:
    """Write a config of the same detector with experts, and its start.

    Everything is checked, by building the detector, before anything is
    written.

    Args:
        cfg: The config of a detector without experts.
        config: Where it is from: a path, or ``'mmdet::...'``.
        at: Names of the modules that become mixtures, or patterns; see
            :func:`.add_experts`.
        num_experts: E.
        top_k: K.
        soft_constraint: Types of the soft constraints, with their default
            weights.
        freeze: Whether only the MoE layers are trained.
        out: Config file to write; if None the config is only returned.
        checkpoint: Of the detector of ``cfg``, if there is one.
        checkpoint_out: Upcycled checkpoint to write; by default ``out`` with
            the ending ``.pth``.
        noise: As of :class:`.UpcycleInit`.
        command: What the docstring of the config says it was made with, as
            arguments of a shell.

    Returns:
        What was replaced, copied and written, to be printed.

    Raises:
        ConfigError: The config has no detector, has experts already, a
            pattern matches nothing, or another option is not allowed.
        UpcyclingError: A file is there already, or the checkpoint does not
            fit.
    """
    check_number('noise', noise)
    checkpoint_out = _checkpoint_out(out, checkpoint, checkpoint_out)
    for path in (out, checkpoint_out):
        if path is not None:
            check_absent(path)
    if checkpoint is not None and is_wrapper(cfg.get('model') or {}):
        fail('checkpoint', checkpoint, f'none for a {cfg.model.type}: make one '
             'of the config of its detector alone, and name it in '
             'model.detector.init_cfg of the new config')
    experts = experts_of(at, num_experts, top_k, soft_constraint)
    dense, moe = _build(cfg), _build(cfg)
    said = [table_of_experts(add_experts(moe, [experts]))]
    if checkpoint is not None:
        said.append(
            write_upcycled(
                moe, dense, checkpoint, checkpoint_out, noise=noise))
    text = moe_config(
        cfg,
        _reference(config, out),
        experts,
        freeze=freeze,
        load_from=checkpoint_out and os.path.abspath(checkpoint_out),
        command=command)
    if out is None:
        said.append(text)
    else:
        write_text(out, text)
        said.append(f'{out} written')
    return '\n'.join(said)


def _checkpoint_out(out: Optional[str], checkpoint: Optional[str],
                    checkpoint_out: Optional[str]) -> Optional[str]:
    if checkpoint is None:
        if checkpoint_out is not None:
            fail('checkpoint_out', checkpoint_out,
                 'a file only if there is a checkpoint to make it from')
        return None
    if checkpoint_out is None and out is None:
        fail('checkpoint_out', None,
             'a file to write, where out does not name one either')
    return checkpoint_out or str(Path(out).with_suffix('.pth'))


def _build(cfg: Config) -> Any:
    """The detector of a config, or of the wrapper in it; it has no experts
    yet."""
    model = cfg.get('model')
    name = model.get('type') if isinstance(model, dict) else None
    if not isinstance(name, str):
        fail('model.type', name, 'the name of a detector; a config without '
             'a model, or one in pure Python, cannot be built on')
    if name.rpartition('.')[2] == 'MoEDetector':
        raise ConfigError('the model has experts already: its type is '
                          'MoEDetector. Add to its experts in the config')
    if is_wrapper(model):
        model = model.detector
    for key in ('detector', 'experts'):
        if key in model:
            fail(f'model.{key}', '...', 'no such key: MoEDetector has one of '
                 f'this name, and {name} cannot be built with it')
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    detector = build_here(model)
    layers: List[str] = list(moe_layers(detector))
    if layers:
        raise ConfigError(f'the model has experts already: {layers[0]}')
    return detector


def _reference(config: str, out: Optional[str]) -> str:
    """How the written config names the other: relative to its own folder, or
    absolute where that would lead through the root."""
    if '::' in config:  # MMEngine takes word characters alone in a folder
        return config if re.match(r'\w+::\w+/\w', config) else str(
            packaged_file(config))
    path = os.path.abspath(os.path.expanduser(config))
    folder = os.path.dirname(os.path.abspath(out)) if out else os.getcwd()
    if os.path.commonpath([path, folder]) == os.path.sep:
        return path
    return os.path.relpath(path, folder)
