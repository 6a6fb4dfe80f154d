"""Forcing: run a trained layer with other experts than its gate would choose.

For evaluation only: K' experts instead of K, one expert for everything,
without some of them, one in the place of another, or some that are drawn at
random; see :class:`.Forcing`.
"""
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Dict, Iterator, Optional, Sequence, Union

from torch import nn

from .checks import ConfigError, fail
from .moe import moe_layers
from .routing import Forcing

Names = Union[str, Sequence[str]]


def force(model: nn.Module,
          *,
          layers: Names = '*',
          top_k: Optional[int] = None,
          expert: Optional[int] = None,
          drop: Union[int, Sequence[int]] = (),
          replace: Sequence[int] = (),
          random_routing: Optional[int] = None) -> None:
    """Overrule the gates of MoE layers in evaluation, until told otherwise.

    ``force(model)`` gives the choice back to all gates.

    Args:
        model: Any module with MoE layers.
        layers: Their names in the model, or patterns such as
            ``'bbox_head.*'``; all by default.
        top_k: K', experts per sample.
        expert: The only expert to run.
        drop: An expert, or several, not to run.
        replace: Two experts; the second one does what the first one is
            selected for.
        random_routing: Seed of the draws, if the experts of each sample are
            drawn at random.

    Raises:
        ValueError: A pattern matches no layer, or a layer has no such expert.
    """
    forcing = Forcing(top_k, expert, drop, replace, random_routing)
    chosen = match_layers(model, layers)
    for name, layer in chosen.items():
        try:
            forcing.choice(layer.top_k, layer.num_experts)
        except ValueError as error:
            raise ConfigError(f'{name}: {error}') from None
    for layer in chosen.values():  # all or none
        layer.forcing = None if forcing == Forcing() else forcing


@contextmanager
def forced(model: nn.Module, **options) -> Iterator[None]:
    """As :func:`force`, for the duration of a ``with`` block."""
    before = {
        name: layer.forcing
        for name, layer in moe_layers(model).items()
    }
    force(model, **options)
    try:
        yield
    finally:
        for name, layer in moe_layers(model).items():
            layer.forcing = before[name]


def match_layers(model: nn.Module, layers: Names) -> Dict[str, nn.Module]:
    """The MoE layers of a model whose names match any of the patterns.

    Raises:
        ValueError: A pattern matches none; names those that there are.
    """
    there = moe_layers(model)
    patterns = (layers, ) if isinstance(layers, str) else layers
    if not isinstance(patterns, (list, tuple)) or not all(
            isinstance(pattern, str) for pattern in patterns):
        fail('layers', layers, 'a name or pattern, or a list of them')
    matched = {
        pattern: [name for name in there if fnmatchcase(name, pattern)]
        for pattern in patterns
    }
    for pattern, found in matched.items():
        if not found:
            fail('layers', pattern,
                 'a pattern that matches a MoE layer; there are ' +
                 (', '.join(there) or 'none in the model'))
    return {
        name: layer
        for name, layer in there.items()
        if any(name in found for found in matched.values())
    }
