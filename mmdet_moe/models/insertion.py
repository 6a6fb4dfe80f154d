"""Experts after a module: residual mixtures that a detector did not have."""
import inspect
from typing import List, Mapping, Sequence

from torch import Tensor, nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError, fail

from .residual import ResidualMixture

#: Options of a block that an entry of ``experts`` may have, beside those of a
#: MoE layer.
BLOCK_KEYS = tuple(
    inspect.signature(ResidualMixture).parameters.keys() -
    {'in_channels', 'moe', 'init_cfg', 'options'})


def insert_after(model: nn.Module, names: Sequence[str],
                 options: Mapping, *, targets: bool = False) -> MoELayer:
    """Have what a module returns go through a residual mixture.

    The mixture becomes a part of the module, ``name.refined_by``, and the
    other parts keep their names. What the module returns is one map, or the
    maps of a pyramid.

    Args:
        model: That has the module: a convolution with its norm, a block, a
            neck.
        names: All names under which it has it.
        options: Of :class:`.ResidualMixture` and of a MoE layer.
        targets: Whether the model tells the layer what is foreground.

    Returns:
        The mixture's layer.

    Raises:
        ValueError: An option is not allowed, or it is not known how many
            channels the module returns.
    """
    module = model.get_submodule(names[0])
    block = {k: v for k, v in options.items() if k in BLOCK_KEYS}
    moe = {k: v for k, v in options.items() if k not in BLOCK_KEYS}
    try:
        added = ResidualMixture(
            _channels(module), moe, whole_pyramid=False, targets=targets,
            **block)
    except ConfigError as error:
        raise ConfigError(f'experts, after={names[0]!r}: {error}') from None
    added.train(module.training)
    if isinstance(module, nn.Sequential):
        module.append(added)
    else:
        module.refined_by = added
        module.register_forward_hook(_refine)
    return added.mixture


def _refine(module: nn.Module, inputs: tuple, output):
    refined = module.refined_by(output)
    return refined if isinstance(output, Tensor) else type(output)(refined)


def _channels(module: nn.Module) -> int:
    """Channels of what a module returns: those of its last layer."""
    layers: List[nn.Module] = [
        m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    if not layers:
        fail('after', type(module).__name__,
             'a module with a convolution, which tells its channels')
    return getattr(layers[-1], 'out_channels', None) or layers[-1].out_features


def check_insertable(model: nn.Module, name: str, module: nn.Module) -> None:
    """Refuse a module that returns no maps.

    Raises:
        ValueError: It is a list of modules, or a head.
    """
    if type(module).forward in (nn.Module.forward, nn.ModuleList.forward):
        fail('experts, after', name,
             f'a module that is called; {type(module).__name__} is a list')
    if is_head(module):
        fail('experts, after', name,
             f'a module that returns feature maps; {type(module).__name__} is '
             'a head')


def is_head(module: nn.Module) -> bool:
    """Whether a module is a head of a detector, which is no layer."""
    return any(hasattr(module, method) for method in _METHODS_OF_HEADS)


_METHODS_OF_HEADS = ('loss', 'loss_and_target', 'predict', 'predict_by_feat')
