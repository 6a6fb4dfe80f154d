"""A detector without some of its experts: config and checkpoint."""
import copy
import json
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Mapping, Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_moe.config_parts import in_scope, type_name
from mmdet_moe.files import DataError, write_text
from mmdet_moe.layers import forced, moe_layers, prune_state
from mmdet_moe.layers.checks import ConfigError, check_number, fail

from .building import build_here
from .checkpoints import read_checkpoint, write_checkpoint
from .compare import compare
from .prune_training import prune_training
from .upcycle import check_absent

Experts = Mapping[str, Sequence[int]]


def prune_detector(cfg: Config,
                   config: str,
                   checkpoint: str,
                   out: str,
                   drop: Experts,
                   picture: Optional[str] = None) -> str:
    """Write a smaller checkpoint, and the config that it belongs to.

    Both detectors, the one with experts dropped and the pruned one, are
    compared on a picture before anything is written. If the checkpoint is of
    a training, the pruned one can be resumed as well.

    Args:
        cfg: Of the detector with all experts.
        config: The file of it.
        checkpoint: Of that detector.
        out: Checkpoint to write; the config is beside it, with the ending
            ``.py``. Neither may exist yet.
        drop: By layer the experts that go.
        picture: A picture file to compare on; a generated one if None.

    Returns:
        What was compared and written, to be printed.

    Raises:
        ConfigError: There is no such layer or expert, or fewer than K would
            be left.
        DataError: A file is there already, or the checkpoint is not of this
            detector.
    """
    config_out = str(Path(out).with_suffix('.py'))
    for path in (out, config_out):
        check_absent(path)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = build_here(cfg.model)
    content = read_checkpoint(checkpoint)
    _load(model, content['state_dict'], checkpoint)
    layers = moe_layers(model)
    kept = {
        name: [e for e in range(layer.num_experts) if e not in drop[name]]
        for name, layer in _chosen(layers, drop).items()
    }

    def prune(state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        for name, keep in kept.items():
            state = prune_state(state, name, layers[name], keep)
        return state

    state = prune(content['state_dict'])
    smaller = _pruned_model(cfg, kept)
    pruned = build_here(smaller)
    _load(pruned, state, 'the pruned state')
    with _all_dropped(model, drop):
        compared = compare(
            model, pruned, picture,
            different='the pruned detector is not the one without the experts',
            tolerance=1e-5)
    rest = prune_training(content, cfg, model, pruned, prune)
    whole = copy.deepcopy(cfg)
    whole.model = smaller
    # Inferencers that are given no config build from this one.
    meta = dict(content['meta'], cfg=whole.pretty_text,
                pruned_from=str(checkpoint))
    if 'message_hub' in rest:
        rest['message_hub'] = copy.deepcopy(rest['message_hub'])
        rest['message_hub'].get('runtime_info', {}).update(
            cfg=whole.pretty_text)
    write_checkpoint(out, dict(rest, state_dict=state, meta=meta))
    write_text(config_out, _text(cfg, config, out, smaller))
    before, after = (sum(p.numel() for p in m.parameters())
                     for m in (model, pruned))
    return (f'{compared}\n{before:,} parameters became {after:,}\n'
            f'{out} and {config_out} written')


def unneeded(report: str, max_loss: float) -> Dict[str, List[int]]:
    """Experts without which a report says that no more than so much of its
    metric, such as AP, is lost, at the upper end of the interval.

    Each expert was dropped alone, so of the experts of a layer those are
    taken, from the least loss on, whose losses add up to no more.

    Args:
        report: A ``report.json`` with interventions.
        max_loss: In points of the metric.

    Returns:
        By layer its experts.

    Raises:
        DataError: The file is no report with interventions.
        ConfigError: No expert is unneeded.
    """
    try:
        content = json.loads(Path(report).read_text(encoding='utf-8'))
        rows = [row for row in content['interventions']
                if row['kind'] == 'drop']
        layers, metric = content['layers'], content['words']['metric']
    except (OSError, ValueError, TypeError, KeyError):
        rows = []
    check_number('max_loss', max_loss)
    if not rows:
        raise DataError(f'{report} is no report.json with interventions; make '
                        'one with tools/analysis_tools/expert_report.py')
    found: Dict[str, List[int]] = {}
    for name, layer in layers.items():
        losses = sorted(
            (-100 * row['difference'][metric]['interval']['low'], row['value'])
            for row in rows if row['layer'] == name
            and row['difference'][metric]['interval'] is not None)
        left = max_loss
        for loss, expert in losses[:layer['experts'] - layer['top_k']]:
            left -= max(loss, 0)
            if left < 0:
                break
            found.setdefault(name, []).append(expert)
    if not found:
        raise ConfigError(
            f'max_loss={max_loss:g}: by {report} no expert can go without '
            f'losing more points of {metric} than that; allow more')
    return found


def _chosen(layers: dict, drop: Experts) -> dict:
    if not drop:
        raise ConfigError('there is no expert to prune')
    for name in drop:
        if name not in layers:
            fail('drop', name, 'a MoE layer of the model; there are ' +
                 ', '.join(layers))
        for e in drop[name]:
            if e not in range(layers[name].num_experts):
                fail(f'drop, {name}', e,
                     f'an expert from 0 to {layers[name].num_experts - 1}')
    return {name: layers[name] for name in drop}


def _load(model: torch.nn.Module, state: dict, name: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise DataError(f'{name} is not of this detector: {error}') from None


def _all_dropped(model: torch.nn.Module, drop: Experts) -> ExitStack:
    """The model with the experts of each layer dropped."""
    stack = ExitStack()
    for name, own in drop.items():
        stack.enter_context(forced(model, layers=name, drop=list(own)))
    return stack


def _pruned_model(cfg: Config, kept: Experts) -> dict:
    """The config of the model, with what stays by layer, as numbered before
    any pruning."""
    model = copy.deepcopy(cfg.model)
    earlier = model.get('pruned') or {}
    now = {**earlier, **{
        name: [earlier[name][e] for e in keep] if name in earlier else keep
        for name, keep in kept.items()
    }}
    if type_name(model) != 'MoEDetector':
        model.update(type=in_scope('MoEDetector', cfg), detector=model['type'])
    model['pruned'] = now
    return model


def _text(cfg: Config, config: str, out: str, model: dict) -> str:
    base = os.path.relpath(os.path.abspath(config),
                           os.path.dirname(os.path.abspath(out)))
    pruned = ',\n'.join(f'        {name!r}: {list(keep)}'
                        for name, keep in model['pruned'].items())
    own = '' if type_name(cfg.model) == 'MoEDetector' else (
        f"    type={model['type']!r},\n"
        f"    detector={model['detector']!r},\n")
    return (
        f'"""The detector of {Path(config).name} without experts that were '
        'pruned.\n\nThe experts of each layer that stay, as numbered before.\n'
        f'"""\n_base_ = {base!r}\n\nmodel = dict(\n{own}    pruned={{\n'
        f'{pruned}\n    }})\nload_from = {os.path.abspath(out)!r}\n')
