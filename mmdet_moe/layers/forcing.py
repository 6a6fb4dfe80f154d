"""Forcing: run a trained layer with other experts than its gate would choose.

For evaluation only: K' experts instead of K, one expert for everything, or
without some of them. What is left is weighted by the softmax over its logits,
so the weights of a sample still sum to 1.
"""
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Dict, Iterator, Optional, Sequence, Tuple, Union

import torch
from torch import nn

from .checks import ConfigError, check_int, fail
from .moe import moe_layers
from .routing import ForcedChoice

Names = Union[str, Sequence[str]]


@dataclass(frozen=True)
class Forcing:
    """How the choice of a layer is overruled in evaluation.

    Attributes:
        top_k: K', experts per sample; as trained if None.
        expert: The only expert that is run; None for the gate's choice.
        drop: Experts that are not run.
    """
    top_k: Optional[int] = None
    expert: Optional[int] = None
    drop: Tuple[int, ...] = ()

    def resolve(self, top_k: int, num_experts: int) -> ForcedChoice:
        """What it means for a layer of E experts, trained with K.

        Raises:
            ValueError: There is no such expert, none is left, or the options
                contradict each other.
        """
        last = num_experts - 1
        drop = {check_int('drop', e, 0, last) for e in self.drop}
        if self.expert is not None:
            check_int('expert', self.expert, 0, last)
            if drop or self.top_k is not None:
                fail('expert', self.expert, 'used without top_k and drop')
            drop = set(range(num_experts)) - {self.expert}
        left = num_experts - len(drop)
        if left == 0:
            fail('drop', self.drop, f'fewer than all {num_experts} experts')
        if self.top_k is not None:
            check_int('top_k', self.top_k, 1, left)
        return ForcedChoice(
            min(top_k if self.top_k is None else self.top_k, left),
            torch.tensor([e in drop for e in range(num_experts)]))


def force(model: nn.Module,
          *,
          layers: Names = '*',
          top_k: Optional[int] = None,
          expert: Optional[int] = None,
          drop: Union[int, Sequence[int]] = ()) -> None:
    """Overrule the gates of MoE layers in evaluation, until told otherwise.

    ``force(model)`` gives the choice back to all gates.

    Args:
        model: Any module with MoE layers.
        layers: Their names in the model, or patterns such as
            ``'bbox_head.*'``; all by default.
        top_k: K', experts per sample.
        expert: The only expert to run.
        drop: An expert, or several, not to run.

    Raises:
        ValueError: A pattern matches no layer, or a layer has no such expert.
    """
    drop = (drop, ) if isinstance(drop, int) else drop
    if not isinstance(drop, (list, tuple)):
        fail('drop', drop, 'an expert, or a list of them')
    forcing = Forcing(top_k, expert, tuple(drop))
    chosen = match_layers(model, layers)
    resolved = {}
    for name, layer in chosen.items():
        try:
            resolved[name] = None if forcing == Forcing() else forcing.resolve(
                layer.top_k, layer.num_experts)
        except ValueError as error:
            raise ConfigError(f'{name}: {error}') from None
    for name, layer in chosen.items():  # all or none
        layer.forcing = resolved[name]


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
