"""Whether a checkpoint has the experts of a model."""
from typing import Dict

from mmengine.runner import CheckpointLoader

from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer


def check_experts(path: str, layers: Dict[str, MoELayer]) -> None:
    """A checkpoint without the experts would be reported with random ones.

    The state of a hard constraint counts if it acts in evaluation.

    Raises:
        DataError: It does not fit a layer.
    """
    state = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    state = {
        key.removeprefix('module.'): value
        for key, value in state.get('state_dict', state).items()
    }
    for name, layer in layers.items():
        hard = layer.hard_constraint
        idle = hard is None or hard.shift() is None
        for part, tensor in layer.state_dict().items():
            if part.startswith('hard_constraint.') and idle:
                continue
            key = f'{name}.{part}'
            there = tuple(state[key].shape) if key in state else 'nothing'
            if there != tuple(tensor.shape):
                raise DataError(
                    f'the checkpoint {path} does not fit the MoE layer {name} '
                    f'of the config: {key} should have the shape '
                    f'{tuple(tensor.shape)}, there is {there}. A detector '
                    'without experts can be converted with '
                    'tools/model_converters/upcycle.py')
