"""Tracing: what the MoE layers of a model decide in a forward pass."""
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Dict, Iterator, List

import torch
from torch import Tensor, nn

from .moe import MoELayer, moe_layers


@dataclass(frozen=True)
class MapDecision:
    """What a layer decided about one feature map of B images.

    G is the number of rows and columns of patches that the scope divides a map
    into, 1 where a decision covers the whole map. A map with fewer rows or
    columns than that has some decisions several times.

    Attributes:
        weights: (B, G, G, E).
        logits: (B, G, G, E).
        height: H of the map.
        width: W of the map.
    """
    weights: Tensor
    logits: Tensor
    height: int
    width: int

    @property
    def distinct(self) -> Tensor:
        """(G, G) bool: True once for each decision, the last of the several
        places that it may have."""
        grid = self.weights.shape[1]
        rows, columns = (
            patch_starts(n, grid).diff(append=torch.tensor([n])) > 0
            for n in (self.height, self.width))
        return rows[:, None] & columns


def patch_starts(length: int, grid: int) -> Tensor:
    """First of the positions along a side of a map that each patch covers."""
    return torch.arange(grid) * length // grid


@contextmanager
def traced(model: nn.Module) -> Iterator[Dict[str, List[MapDecision]]]:
    """Keep the decisions of all MoE layers during a ``with`` block.

    A layer that is called several times, level by level, has its maps in the
    order of the calls; one that is not called has none.

    Args:
        model: Any module; inside of the block it is run once.

    Yields:
        By the layer's name, a decision for each map; filled while it runs.

    Example:
        >>> layer = MoELayer(lambda: nn.Conv2d(8, 8, 1), 8, num_experts=4)
        >>> model = nn.Sequential(layer).eval()
        >>> with traced(model) as decisions:
        ...     _ = model(torch.rand(2, 8, 5, 7))
        >>> decisions['0'][0].weights.shape
        torch.Size([2, 1, 1, 4])
    """
    layers = moe_layers(model)
    decisions = {name: [] for name in layers}

    def keep(name: str, layer: MoELayer) -> None:
        decisions[name] += _decisions(layer)

    handles = [
        layer.register_forward_hook(
            lambda layer, args, output, name=name: keep(name, layer))
        for name, layer in layers.items()
    ]
    try:
        yield decisions
    finally:
        for handle in handles:
            handle.remove()


def _decisions(layer: MoELayer) -> List[MapDecision]:
    """Those of the latest call of a layer."""
    routing, grid = layer.routing, layer.scope.grid
    return [
        MapDecision(
            _thin(weights, grid), _thin(logits, grid), *shape[1:])
        for weights, logits, shape in zip(
            layer.grids(routing.weights), layer.grids(routing.logits),
            layer.map_shapes)
    ]


def _thin(values: Tensor, grid: int) -> Tensor:
    """A row per position, or one for all (B, gh, gw, E) -> one per patch."""
    rows, columns = (patch_starts(n, grid) for n in values.shape[1:3])
    return values[:, rows][:, :, columns]
