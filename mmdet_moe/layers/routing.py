"""Routing: logits -> which experts a sample goes to, and with which weight."""
from dataclasses import dataclass, replace
from typing import Optional, Tuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Routing:
    """The decision for N samples.

    Attributes:
        weights: (N, E) float32, rows sum to 1, zero but for K experts.
        experts: (N, K) the selected experts, highest weight first.
        logits: (N, E) float32, as they came from the gate (and noise).
        masked: (E,) bool, experts that were not to be chosen.
    """
    weights: Tensor
    experts: Tensor
    logits: Tensor
    masked: Tensor

    def detach(self) -> 'Routing':
        """The same decision without its graph."""
        return replace(
            self, weights=self.weights.detach(), logits=self.logits.detach())

    def split(self, size: int) -> Tuple['Routing', ...]:
        """Cut N into consecutive pieces of ``size`` samples."""
        return tuple(
            replace(self, weights=w, experts=e, logits=g)
            for w, e, g in zip(
                self.weights.split(size), self.experts.split(size),
                self.logits.split(size)))


def top_k_routing(logits: Tensor,
                  top_k: int,
                  masked: Optional[Tensor] = None) -> Routing:
    """Keep the K largest logits of each row, softmax over those K.

    Equal logits are taken in the order of the expert index, so that routing
    is deterministic.

    Args:
        logits: (N, E).
        top_k: K, at most the number of experts that are not masked.
        masked: (E,) bool, experts that may not be chosen; none if None.
    """
    if masked is None:
        masked = logits.new_zeros(logits.shape[-1], dtype=torch.bool)
    open_logits = logits.masked_fill(masked, float('-inf'))
    order = open_logits.sort(dim=-1, descending=True, stable=True).indices
    experts = order[:, :top_k]
    kept = open_logits.gather(-1, experts).softmax(dim=-1)
    weights = torch.zeros_like(logits).scatter(-1, experts, kept)
    return Routing(weights, experts, logits, masked)
