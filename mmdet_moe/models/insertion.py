"""Experts after a module: residual mixtures that a detector did not have."""
import inspect
import re
from typing import List, Mapping, Optional, Sequence

from torch import Tensor, nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError, fail

from .callers import uses_of
from .residual import ResidualMixture
from .trial import example_inputs, trial_outputs

_WHOLE_PART = re.compile(r'(^|\.)(backbone|neck)(\.\d+)?$')
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
    try:
        added = make_block(module, options, targets=targets)
    except ConfigError as error:
        raise ConfigError(f'experts, after={names[0]!r}: {error}') from None
    added.train(module.training)
    if isinstance(module, nn.Sequential):
        module.append(added)
    else:
        module.refined_by = added
        module.register_forward_hook(_refine)
    return added.mixture


def make_block(module: nn.Module, options: Mapping, *,
               targets: bool = False) -> ResidualMixture:
    """A residual mixture for what a module returns.

    Args:
        module: Of a detector; it is not changed.
        options: Of :class:`.ResidualMixture` and of a MoE layer.
        targets: Whether the model tells the layer what is foreground.

    Raises:
        ValueError: An option is not allowed, or it is not known how many
            channels the module returns.
    """
    block = {k: v for k, v in options.items() if k in BLOCK_KEYS}
    moe = {k: v for k, v in options.items() if k not in BLOCK_KEYS}
    return ResidualMixture(
        _channels(module), moe, whole_pyramid=False, targets=targets, **block)


def _refine(module: nn.Module, inputs: tuple, output):
    refined = module.refined_by(output)
    return refined if isinstance(output, Tensor) else type(output)(refined)


def _channels(module: nn.Module) -> int:
    """Channels of what a module returns: as a trial run shows, or those of its
    last layer."""
    returned = trial_outputs(module)
    if returned is not None:
        return returned[0].shape[1]
    layers: List[nn.Module] = [
        m for m in module.modules() if isinstance(m, (nn.Conv2d, nn.Linear))
    ]
    if not layers:
        fail('after', type(module).__name__,
             'a module with a convolution, which tells its channels')
    return getattr(layers[-1], 'out_channels', None) or layers[-1].out_features


def uninsertable(model: nn.Module, name: str,
                 module: nn.Module) -> Optional[str]:
    """Why there can be no residual mixture after a module; None if there can.

    Args:
        model: That has the module.
        name: The name under which it has it.
        module: The module.
    """
    if type(module).forward in (nn.Module.forward, nn.ModuleList.forward):
        return 'is a list of modules and cannot be called'
    if is_head(module):
        return 'is a head'
    if isinstance(module, nn.Sequential):
        for use in uses_of(model, name):
            if use.reads == '[]':
                return (f'is read by {use.method}, which uses its parts one '
                        'by one')
    inputs = example_inputs(module)
    if inputs and inputs[0] is None and not is_whole_part(name):
        return inputs[1]
    returned = trial_outputs(module)
    if returned is not None and not all(
            isinstance(y, Tensor) and y.dim() == 4 and
            y.shape[1] == returned[0].shape[1] for y in returned):
        return 'returns something else'
    return None


def is_whole_part(name: str) -> bool:
    """Whether a name is that of a backbone or neck, used as a whole."""
    return _WHOLE_PART.search(name) is not None


def is_head(module: nn.Module) -> bool:
    """Whether a module is a head of a detector, which is no layer."""
    return any(hasattr(module, method) for method in _METHODS_OF_HEADS)


_METHODS_OF_HEADS = ('loss', 'loss_and_target', 'predict', 'predict_by_feat')
