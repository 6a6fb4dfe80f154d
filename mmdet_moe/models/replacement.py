"""Experts in place of a module: a mixture of its like."""
import inspect
from typing import Mapping, Optional, Sequence

from torch import nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError, check_choice
from mmdet_moe.layers.compatibility import synchronised

from .callers import uses_of
from .insertion import is_head, is_whole_part
from .mixtures import Mixture, adds_identity, first_layer, mixture_of, shape_of
from .trial import check_mixture, flaw


def replace(model: nn.Module, names: Sequence[str],
            options: Mapping, *, targets: bool = False) -> MoELayer:
    """Replace a module by a mixture of experts of the same architecture.

    Args:
        model: That has the module.
        names: All names under which it has it.
        options: As of :func:`make_mixture`.
        targets: Whether the model tells the layer what is foreground.

    Returns:
        The mixture.

    Raises:
        ValueError: An option is not allowed.
    """
    module = model.get_submodule(names[0])
    try:
        mixture = make_mixture(module, options, targets=targets)
    except ConfigError as error:
        raise ConfigError(f'experts, at={names[0]!r}: {error}') from None
    if not any(p.requires_grad for p in module.parameters()):
        mixture.requires_grad_(False)  # of a stage that is frozen
    mixture.train(module.training)
    for name in names:
        parent, _, attribute = name.rpartition('.')
        setattr(model.get_submodule(parent), attribute, mixture)
    return mixture


def make_mixture(module: nn.Module, options: Mapping, *,
                 targets: bool = False) -> Mixture:
    """A mixture that takes the place of a module, after a trial run.

    Args:
        module: Of a detector; it is not changed.
        options: The keyword arguments of :class:`~mmdet_moe.layers.MoELayer`,
            and ``residual``: whether the input is added to the mixture.
        targets: Whether the model tells the layer what is foreground.

    Raises:
        ValueError: An option is not allowed, or the mixture does not run.
    """
    moe = dict(options)
    residual = check_choice(
        'residual', moe.pop('residual', False), (False, True))
    mixture = mixture_of(module, moe, residual=residual, targets=targets)
    check_mixture(module, mixture)
    return mixture


def irreplaceable(model: nn.Module, name: str,
                  module: nn.Module) -> Optional[str]:
    """Why a module cannot become a mixture; None if it can.

    Args:
        model: That has the module.
        name: The name under which it has it.
        module: The module.
    """
    if any(isinstance(part, MoELayer) for part in module.modules()):
        return 'has experts already'
    if type(module).forward in (nn.Module.forward, nn.ModuleList.forward):
        return 'is a list of modules and cannot be called'
    if is_whole_part(name) or is_head(module):
        return 'is a whole part of a detector, with several outputs'
    return (_several_inputs(module) or _no_first_layer(module)
            or synchronised(module) or _shared_part(model, module)
            or _used_otherwise(model, name, module) or flaw(module))


def _several_inputs(module: nn.Module) -> Optional[str]:
    parameters = [
        p for p in inspect.signature(module.forward).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    required = [
        p for p in parameters if p.default is p.empty and p.kind in (
            p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    names = [p.name for p in parameters]
    if len(required) == 1 and 'key' not in names:
        return None
    return 'takes several inputs: ' + ', '.join(names)


def _no_first_layer(module: nn.Module) -> Optional[str]:
    if first_layer(module) is not None:
        return None
    # What has weights of its own, such as a Conv1d or a deformable convolution
    others = sorted({
        type(part).__name__ for part in module.modules()
        if getattr(part, 'weight', None) is not None
    } - {type(module).__name__})
    return ('has no layer of the kinds that tell its channels, nn.Conv2d and '
            'nn.Linear' + (f'; it has {", ".join(others)}' if others else ''))


def _shared_part(model: nn.Module, module: nn.Module) -> Optional[str]:
    """Experts have parts of their own, which nothing outside can share."""
    inside = {id(part): part for part in module.modules()}
    del inside[id(module)]
    ours = {
        name for name, part in model.named_modules(remove_duplicate=False)
        if part is module
    }
    for name, part in model.named_modules(remove_duplicate=False):
        if id(part) in inside and any(True for _ in part.parameters()) and (
                not any(name.startswith(f'{own}.') for own in ours)):
            return (f'shares a part with others, {name}, which the experts '
                    'would not')
    return None


def _used_otherwise(model: nn.Module, name: str,
                    module: nn.Module) -> Optional[str]:
    """What the classes around it do beside calling it with one tensor."""
    known = {*dir(MoELayer), *shape_of(module), 'in_channels', 'training'}
    for use in uses_of(model, name):
        if use.inputs is not None:
            several = len(use.inputs) > 1 and not adds_identity(module)
            if several or '=' in ''.join(use.inputs[:1]):
                return (f'is called with several inputs by {use.method}: ' +
                        ', '.join(use.inputs))
        elif use.reads == '[]' and hasattr(module, '__getitem__'):
            return f'is read by {use.method}, which uses its parts one by one'
        elif use.reads not in known and hasattr(module, use.reads):
            return (f'is read by {use.method}, which uses its .{use.reads} '
                    'and not the module')
    return None
