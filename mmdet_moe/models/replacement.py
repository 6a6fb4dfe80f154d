"""Experts in place of a module: a mixture of its like."""
import inspect
import re
from typing import Mapping, Sequence

from torch import nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError, check_choice, fail

from .insertion import is_head
from .mixtures import Mixture, ShortcutMixture, first_layer

#: Names of what a detector uses as a whole.
_WHOLE_PART = re.compile(r'(^|\.)(backbone|neck)(\.\d+)?$')


def replace(model: nn.Module, names: Sequence[str],
            options: Mapping, *, targets: bool = False) -> MoELayer:
    """Replace a module by a mixture of experts of the same architecture.

    Args:
        model: That has the module.
        names: All names under which it has it.
        options: The keyword arguments of :class:`~mmdet_moe.layers.MoELayer`,
            and ``residual``: whether the input is added to the mixture.
        targets: Whether the model tells the layer what is foreground.

    Returns:
        The mixture.

    Raises:
        ValueError: An option is not allowed.
    """
    module = model.get_submodule(names[0])
    moe = dict(options)
    try:
        residual = check_choice(
            'residual', moe.pop('residual', False), (False, True))
        mixture = (ShortcutMixture if residual else Mixture)(
            module, moe, targets=targets)
    except ConfigError as error:
        raise ConfigError(f'experts, at={names[0]!r}: {error}') from None
    if not any(p.requires_grad for p in module.parameters()):
        mixture.requires_grad_(False)  # of a stage that is frozen
    mixture.train(module.training)
    for name in names:
        parent, _, attribute = name.rpartition('.')
        setattr(model.get_submodule(parent), attribute, mixture)
    return mixture


def check_replaceable(model: nn.Module, name: str, module: nn.Module) -> None:
    """Refuse a module that cannot become a mixture.

    Raises:
        ValueError: Says why, and what would work.
    """

    def refuse(why: str) -> None:
        inside = [
            f'{name}.{child}' for child, part in module.named_modules()
            if child and isinstance(part, (nn.Conv2d, nn.Linear))
        ]
        fail('experts, at', name,
             f'a module that maps one tensor to one; {type(module).__name__} '
             + why + (f'. Inside of it there is {inside[0]}' if inside and
                      not isinstance(module, MoELayer) else ''))

    if any(isinstance(part, MoELayer) for part in module.modules()):
        refuse('has experts already')
    if first_layer(module) is None:
        refuse('has no convolution or fully connected layer')
    if type(module).forward in (nn.Module.forward, nn.ModuleList.forward):
        refuse('is a list of modules and cannot be called')
    if _WHOLE_PART.search(name) or is_head(module):
        refuse('is a whole part of a detector, with several outputs')
    needed = [
        p.name for p in inspect.signature(module.forward).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    required = [
        p.name for p in inspect.signature(module.forward).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY,
                                               p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) != 1 or 'key' in needed:
        refuse('takes several inputs: ' + ', '.join(needed))
    reader = _reader(model, name)
    if reader is not None:
        refuse(f'is read by {reader}, which uses its weights directly and not '
               'the module')


def _reader(model: nn.Module, name: str):
    """The class that reads the weights of a module beside calling it.

    What is looked for is ``.name.weight`` in the source of the modules that
    contain it; there is no other way to tell before it fails.
    """
    parts = name.split('.')
    for depth in range(1, min(3, len(parts)) + 1):
        owner = model.get_submodule('.'.join(parts[:-depth]))
        wanted = f'self.{".".join(parts[-depth:])}.weight'
        for cls in type(owner).__mro__:
            method = vars(cls).get('forward')
            if cls in (nn.Module, object):
                break
            try:
                source = inspect.getsource(method if cls.__module__.startswith(
                    'torch.') else cls)
            except (OSError, TypeError):
                continue
            if wanted in source:
                return cls.__name__
    return None
