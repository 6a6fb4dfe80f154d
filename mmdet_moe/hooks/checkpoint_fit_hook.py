import logging
from typing import Dict

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from torch import Tensor, nn

from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer, moe_layers

from .wrappers import unwrapped


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuses weights to test with that are those of another model.

    MMEngine leaves what a checkpoint lacks as it was drawn at random, and says
    so among many lines. The state of a hard constraint counts if it acts in
    evaluation. Weights of other parts of the model may be missing, with a
    warning, as long as they are fewer than half.

    Raises:
        DataError: A MoE layer, or most of the model, is not in the checkpoint.
    """
    priority = 'VERY_HIGH'  # what is not refused may be changed by others

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        shapes = {key.removeprefix('module.'): x.shape
                  for key, x in checkpoint.get('state_dict',
                                               checkpoint).items()
                  if isinstance(x, Tensor)}
        model = unwrapped(runner.model)
        for name, layer in moe_layers(model).items():
            _check_layer(name, layer, shapes)
        _check_whole(model, shapes)


def _check_layer(name: str, layer: MoELayer, shapes: Dict[str, tuple]) -> None:
    hard = layer.hard_constraint
    idle = hard is None or hard.shift() is None
    for part, tensor in layer.state_dict().items():
        if part.startswith('hard_constraint.') and idle:
            continue
        key = f'{name}.{part}'
        there = tuple(shapes[key]) if key in shapes else 'nothing'
        if there != tuple(tensor.shape):
            raise DataError(
                f'the checkpoint does not fit the MoE layer {name} of the '
                f'config: {key} should have the shape {tuple(tensor.shape)}, '
                f'there is {there}. A model without experts can be converted '
                'with tools/model_converters/upcycle.py')


def _check_whole(model: nn.Module, shapes: Dict[str, tuple]) -> None:
    own = model.state_dict()
    bad = [key for key, x in own.items() if shapes.get(key) != x.shape]
    if not bad:
        return
    text = (f'{len(bad)} of the {len(own)} weights of the model are not in the '
            'checkpoint, or have another shape there: ' + ', '.join(bad[:3]) +
            (', ...' if len(bad) > 3 else ''))
    if len(bad) > len(own) / 2:
        raise DataError(f'{text}. Is it the checkpoint of another config?')
    print_log(text, 'current', logging.WARNING)
