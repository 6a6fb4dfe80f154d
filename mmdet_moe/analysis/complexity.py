"""What a model costs: parameters, and operations for one picture."""
import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import comb
from typing import (
    Any,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
)

import torch
from mmdet.models import BaseDetector
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import get_test_pipeline_cfg
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from terminaltables import AsciiTable
from torch import nn

from mmdet_moe.config_parts import type_name
from mmdet_moe.conversion.dense_twin import dense_twin
from mmdet_moe.conversion.pictures import image_channels
from mmdet_moe.layers import moe_layers
from mmdet_moe.layers.checks import check_int, fail
from mmdet_moe.layers.dispatch import DISPATCHES

from .flop_counter import FlopCount, count_flops

Shape = Tuple[int, int]

#: (H, W) of a detector's picture where the config does not say it.
DEFAULT_SHAPE = (800, 1333)
#: Steps of a pipeline that say the size of a picture, and how they call it.
_SIZES = dict(Resize='scale', CenterCrop='crop_size')
#: Parameters and FLOPs that are in none of a model's children.
OTHER = 'other'


@dataclass(frozen=True)
class Cost:
    """What a model, or a part of it, costs.

    Attributes:
        params: Number of parameters.
        active_params: Number of those that one sample uses on average; see
            :func:`active_fractions`.
        flops: FLOPs of one picture, 2 for each multiply-add.
        all_experts_flops: FLOPs of one picture if each MoE layer runs all of
            its experts on all samples.
    """
    params: int
    active_params: int
    flops: int
    all_experts_flops: int


@dataclass(frozen=True)
class Complexity:
    """What a model costs.

    Attributes:
        picture: (H, W) of the picture.
        padded: (H, W) of the picture after padding, which is what counts.
        parts: Costs by name: of the whole ``'model'``, of each of its
            children, and of what is in none of them, ``'other'``.
        not_counted: See :class:`.FlopCount`.
        twin: ``parts`` of the same model without experts, if there is one.
        twin_error: Why that model could not be built.
    """
    picture: Shape
    padded: Shape
    parts: Dict[str, Cost]
    not_counted: Tuple[str, ...]
    twin: Optional[Dict[str, Cost]] = None
    twin_error: Optional[str] = None

    def json(self) -> str:
        """All numbers, as a JSON object."""
        return json.dumps(
            dict(asdict(self), flops_per_multiply_add=2), indent=1) + '\n'


def complexity(cfg: Config, shape: Optional[Shape] = None) -> Complexity:
    """Measure the model of a config, and its dense twin if it has one.

    Args:
        cfg: The config.
        shape: (H, W) of the picture; by default :func:`picture_shape`.

    Raises:
        ConfigError: There is no model in the config, or the shape is not of
            two positive integers.
    """
    if not isinstance(cfg.get('model'), dict):
        fail('model', cfg.get('model'),
             'the config of a detector or classifier')
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    if shape is not None:
        shape = _checked(shape)
    model = build(cfg.model)
    if shape is None:
        shape = _checked(picture_shape(
            cfg, DEFAULT_SHAPE if isinstance(model, BaseDetector) else None))
    result = measure(model, shape)
    twin = dense_twin(cfg.model)
    if twin == cfg.model:
        return result
    try:
        model = build(twin)
    except Exception as error:  # the user did not write that config
        return replace(result, twin_error=str(error))
    return replace(result, twin=measure(model, shape).parts)


def _checked(shape: Sequence[int]) -> Shape:
    return tuple(check_int(f'shape[{i}]', side, 1)
                 for i, side in enumerate(shape))


def picture_shape(cfg: Config, default: Optional[Shape]) -> Shape:
    """(H, W) that the test pipeline scales, or crops, a landscape picture to.

    Args:
        cfg: The config.
        default: Where the pipeline does not say it.

    Raises:
        ConfigError: It does not, and there is no default.
    """
    found, unknown = None, None
    loader = cfg.get('test_dataloader')
    for step in get_test_pipeline_cfg(cfg) if loader else ():
        kind = type_name(step)
        size = step.get(_SIZES.get(kind, ''))
        if size is not None:
            width, height = (size, size) if isinstance(size, int) else size
            if step.get('keep_ratio'):
                width, height = max(width, height), min(width, height)
            found, unknown = (height, width), None
        elif 'Resize' in kind or 'Crop' in kind:
            unknown = kind
    if default is None and (unknown or not found):
        fail('--shape', None, 'height and width of a picture, as the test '
             'pipeline does not say them' + (
                 f' ({unknown})' if unknown else ''))
    return found or default


def build(cfg: dict) -> nn.Module:
    """A model in evaluation mode with the same random weights each time.

    No checkpoint is read: ``init_cfg`` is not followed. All thresholds for
    scores are 0, because random weights would not reach them, and what is
    done with each detection, such as its mask, would not be counted.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        model = MODELS.build(_without_thresholds(cfg))
    # Some implementations of SyncBatchNorm need a GPU.
    return revert_sync_batchnorm(model).eval()


def measure(model: nn.Module, shape: Shape) -> Complexity:
    """Run a model on one generated picture and say what it costs.

    The detector predicts, so that the second stage and whatever else follows
    the first predictions is included.

    Args:
        model: A detector or classifier in evaluation mode.
        shape: (H, W) of the picture.
    """
    # Of a module that is reached by two names the first one counts.
    owners = {
        module: name
        for name, child in reversed(list(model.named_children()))
        for module in child.modules()
    }

    def count() -> FlopCount:
        batch = _generated_batch(model, *shape)
        return count_flops(lambda: model(**batch, mode='predict'), owners)

    as_routed = everything = count()
    if moe_layers(model):
        with _all_experts(model):
            everything = count()
    padded = _generated_batch(model, *shape)['inputs'].shape[-2:]
    return Complexity(shape, tuple(padded),
                      _costs(model, as_routed, everything),
                      as_routed.not_counted)


def active_fractions(model: nn.Module) -> Dict[nn.Parameter, float]:
    """The fraction of the samples that use a parameter, for all parameters.

    If a MoE layer selects any K of its E experts equally often, that is K / E
    for a parameter of one expert and 1 - C(E - m, K) / C(E, K) for one that m
    experts share. It is 1 outside of experts, so for gates.
    """
    fractions = dict.fromkeys(model.parameters(), 1.)
    for layer in moe_layers(model).values():
        holders = Counter(
            p for expert in layer.experts for p in expert.parameters())
        ways = comb(layer.num_experts, layer.top_k)
        for parameter, m in holders.items():
            idle = comb(layer.num_experts - m, layer.top_k) / ways
            fractions[parameter] *= 1 - idle
    return fractions


def as_text(result: Complexity) -> str:
    """The costs as a table, with what has to be known to read it."""
    twin = result.twin or {}
    header = [
        'part', 'parameters', 'active', 'GFLOPs', 'all experts GFLOPs'
    ] + ['dense parameters', 'dense GFLOPs'] * bool(twin)
    rows = [[
        name, f'{cost.params:,}', f'{cost.active_params:,}',
        _giga(cost.flops), _giga(cost.all_experts_flops)
    ] + _twin_cells(twin.get(name)) * bool(twin)
            for name, cost in result.parts.items()]
    table = AsciiTable([header] + rows)
    for column in range(1, len(header)):
        table.justify_columns[column] = 'right'
    whole = result.parts['model']
    size, padded = (f'{height} x {width}'
                    for height, width in (result.picture, result.padded))
    compiled = [x for x in result.not_counted if not x.startswith('aten.')]
    lines = [
        table.table,
        f'For one picture of {size} pixels (height x width), padded to '
        f'{padded}.',
        'Active parameters are those that one sample uses on average.',
        'A multiply-add is 2 FLOPs, so the model needs '
        f'{_giga(whole.flops / 2)} G multiply-adds, which is what '
        "MMDetection's own tool calls FLOPs.",
        'Not counted: ' + ''.join(f'{name}, ' for name in compiled) +
        'element-wise operations, and '
        f'{len(result.not_counted) - len(compiled)} other operators of '
        'PyTorch (pooling, sorting and the like; the JSON file has them all).',
    ]
    if result.twin_error:
        lines.append('The model without experts cannot be built: '
                     f'{result.twin_error}')
    return '\n'.join(lines) + '\n'


def _without_thresholds(cfg: Any) -> Any:
    """The same config with every ``score_thr`` set to 0."""
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(map(_without_thresholds, cfg))
    if not isinstance(cfg, dict):
        return cfg
    return type(cfg)({
        key: 0 if key == 'score_thr' else _without_thresholds(value)
        for key, value in cfg.items()
    })


def _generated_batch(model: nn.Module, height: int, width: int) -> dict:
    """``inputs`` of noise, preprocessed; for a detector with what it has to
    know of the picture in ``data_samples``."""
    picture = torch.randint(
        256, (image_channels(model), height, width),
        dtype=torch.uint8,
        generator=torch.Generator().manual_seed(0))
    if not isinstance(model, BaseDetector):
        return model.data_preprocessor(dict(inputs=[picture]))
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1., 1.)))
    return model.data_preprocessor(
        dict(inputs=[picture], data_samples=[sample]))


@contextmanager
def _all_experts(model: nn.Module) -> Iterator[None]:
    """Every MoE layer runs all experts while the context lasts."""
    layers = list(moe_layers(model).values())
    before = [layer.dispatch for layer in layers]
    try:
        for layer in layers:
            layer.dispatch = DISPATCHES['dense']
        yield
    finally:
        for layer, dispatch in zip(layers, before):
            layer.dispatch = dispatch


def _costs(model: nn.Module, as_routed: FlopCount,
           everything: FlopCount) -> Dict[str, Cost]:
    """Costs of the model, of each child that costs something, and of the
    rest."""
    fractions = active_fractions(model)
    ungiven = set(fractions)
    members: Dict[str, List[nn.Parameter]] = {}
    for name, child in model.named_children():
        # A parameter that is in two children is counted in the first.
        members[name] = [p for p in child.parameters() if p in ungiven]
        ungiven.difference_update(members[name])
    members[OTHER] = list(ungiven)

    def cost(params: Iterable[nn.Parameter], *flops: int) -> Cost:
        return Cost(
            sum(p.numel() for p in params),
            round(sum(p.numel() * fractions[p] for p in params)), *flops)

    routed, run_all = (
        {**count.by_part, OTHER: count.total - sum(count.by_part.values())}
        for count in (as_routed, everything))
    costs = dict(model=cost(fractions, as_routed.total, everything.total))
    for name, params in members.items():
        if params or run_all.get(name):
            costs[name] = cost(params, routed.get(name, 0),
                               run_all.get(name, 0))
    return costs


def _twin_cells(cost: Optional[Cost]) -> List[str]:
    return ['-', '-'] if cost is None else [
        f'{cost.params:,}', _giga(cost.flops)
    ]


def _giga(flops: float) -> str:
    return f'{flops / 1e9:,.3f}'
