import logging
from typing import Any, Dict, Mapping

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import Tensor

from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer, moe_layers

from .wrappers import unwrapped


def check_fit(runner) -> None:
    """Have a runner check what it loads with a :class:`CheckpointFitHook`, if
    it does not yet."""
    if not any(isinstance(hook, CheckpointFitHook) for hook in runner.hooks):
        runner.register_hook(CheckpointFitHook())


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuses weights to test with that are those of another model.

    MMEngine leaves what a checkpoint lacks as it was drawn at random, and says
    so among many lines. The state of a hard constraint counts if it acts in
    evaluation. Weights of other parts of the model may be missing, with a
    warning, as long as they are fewer than half.

    Raises:
        DataError: A MoE layer, or most of the model, is not in the checkpoint;
            or a weight has another shape there.
    """
    priority = 'VERY_HIGH'  # what is not refused may be changed by others

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        shapes = _shapes(checkpoint.get('state_dict', checkpoint))
        model = unwrapped(runner.model)
        for name, layer in moe_layers(model).items():
            _check_layer(name, layer, shapes)
        _check_whole(_shapes(model.state_dict()), shapes)


def _shapes(state: Mapping[str, Any]) -> Dict[str, tuple]:
    return {key.removeprefix('module.'): tuple(x.shape)
            for key, x in state.items() if isinstance(x, Tensor)}


def _check_layer(name: str, layer: MoELayer, shapes: Dict[str, tuple]) -> None:
    hard = layer.hard_constraint
    idle = hard is None or hard.shift() is None
    for part, tensor in layer.state_dict().items():
        if part.startswith('hard_constraint.') and idle:
            continue
        key = f'{name}.{part}'
        there = shapes.get(key, 'nothing')
        if there != tuple(tensor.shape):
            raise DataError(
                f'the checkpoint does not fit the MoE layer {name} of the '
                f'config: {key} should have the shape {tuple(tensor.shape)}, '
                f'there is {there}. A model without experts can be converted '
                'with tools/model_converters/upcycle.py')


def _check_whole(own: Dict[str, tuple], shapes: Dict[str, tuple]) -> None:
    for key, shape in own.items():
        if shapes.get(key, shape) != shape:
            raise DataError(
                f'the checkpoint is not of this config: {key} should have the '
                f'shape {shape}, there is {shapes[key]}')
    missing = [key for key in own if key not in shapes]
    if not missing:
        return
    text = (f'{len(missing)} of the {len(own)} weights of the model are not in '
            'the checkpoint: ' + ', '.join(missing[:3]) +
            (', ...' if len(missing) > 3 else ''))
    if len(missing) > len(own) / 2:
        raise DataError(f'{text}. Is it the checkpoint of another config?')
    print_log(text, 'current', logging.WARNING)
