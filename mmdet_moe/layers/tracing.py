"""Tracing: what the MoE layers of a model decide in a forward pass."""
from contextlib import contextmanager
from typing import Dict, Iterator, List

from torch import nn

from .decision import Decision
from .moe import moe_layers


@contextmanager
def traced(model: nn.Module) -> Iterator[Dict[str, List[Decision]]]:
    """Keep the decisions of all MoE layers during a ``with`` block.

    Args:
        model: Any module; inside of the block it is run once.

    Yields:
        By the layer's name a decision for each call, without its graph;
        filled while the model runs. A layer that is not called has none.

    Example:
        >>> layer = MoELayer(lambda: nn.Conv2d(8, 8, 1), 8, num_experts=4)
        >>> model = nn.Sequential(layer).eval()
        >>> with traced(model) as decisions:
        ...     _ = model(torch.rand(2, 8, 5, 7))
        >>> decisions['0'][0].weights.shape
        torch.Size([2, 4])
    """
    decisions: Dict[str, List[Decision]] = {}
    handles = []
    for name, layer in moe_layers(model).items():
        calls = decisions[name] = []
        handles.append(
            layer.observe(lambda decision, calls=calls: calls.append(
                decision.detach())))
    try:
        yield decisions
    finally:
        for handle in handles:
            handle.remove()
