"""Routing: logits -> which experts a sample goes to, and with which weight."""
from dataclasses import dataclass, fields
from typing import Callable, Optional, Sequence, Tuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """The decision for N samples; every tensor has a row for each.

    Attributes:
        weights: (N, E) float32, rows sum to 1, zero but for K experts.
        experts: (N, K) the selected experts, highest weight first.
        logits: (N, E) float32, as the gate made them, with noise if any.
        masked: (N, E) bool, experts that were not to be chosen.
        noise: (N, E) what of the logits is noise; None without.
        noise_scale: (N, E) standard deviation of that noise; None without.
    """
    weights: Tensor
    experts: Tensor
    logits: Tensor
    masked: Tensor
    noise: Optional[Tensor] = None
    noise_scale: Optional[Tensor] = None

    @property
    def changed(self) -> Tensor:
        """(N,) bool, whether another choice was made because of the mask."""
        free, _ = select(self.logits, self.experts.shape[1])
        return self.masked.gather(-1, free).any(dim=-1)

    def detach(self) -> 'Routing':
        """The same decision without its graph."""
        return self._rows(Tensor.detach)

    def split(self, sizes: Sequence[int]) -> Tuple['Routing', ...]:
        """Cut N into consecutive pieces."""
        ends = [sum(sizes[:i + 1]) for i in range(len(sizes))]
        return tuple(
            self._rows(lambda t, rows=slice(end - size, end): t[rows])
            for size, end in zip(sizes, ends))

    @staticmethod
    def cat(parts: Sequence['Routing']) -> 'Routing':
        """Join decisions; the inverse of :meth:`split`."""
        columns = zip(*(part._values() for part in parts))
        return Routing(
            *(None if c[0] is None else torch.cat(c) for c in columns))

    def _values(self) -> list:
        return [getattr(self, field.name) for field in fields(self)]

    def _rows(self, change: Callable[[Tensor], Tensor]) -> 'Routing':
        return Routing(
            *(None if v is None else change(v) for v in self._values()))


@dataclass(frozen=True)
class ForcedChoice:
    """A choice that overrules the gate's: K' and experts (E,) not to choose."""
    top_k: int
    masked: Tensor


def select(logits: Tensor, top_k: int) -> Tuple[Tensor, Tensor]:
    """The K experts with the largest logits, and these: (N, E) -> 2 (N, K).

    Equal logits are taken in the order of the expert index, so that routing
    is deterministic.
    """
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    return order[:, :top_k], ordered[:, :top_k]


def top_k_routing(logits: Tensor,
                  top_k: int,
                  masked: Optional[Tensor] = None,
                  *,
                  noise: Optional[Tensor] = None,
                  noise_scale: Optional[Tensor] = None) -> Routing:
    """Keep the K largest logits of each row, softmax over those K.

    Args:
        logits: (N, E), with the noise.
        top_k: K, at most the number of experts that are not masked.
        masked: (E,) bool, experts that may not be chosen; none if None.
        noise, noise_scale: (N, E), kept with the decision.
    """
    if masked is None:
        masked, open_logits = torch.zeros_like(logits, dtype=torch.bool), logits
    else:
        masked = masked.expand(logits.shape)
        open_logits = logits.masked_fill(masked, float('-inf'))
    experts, kept = select(open_logits, top_k)
    weights = torch.zeros_like(logits).scatter(-1, experts,
                                               kept.softmax(dim=-1))
    return Routing(weights, experts, logits, masked, noise, noise_scale)
