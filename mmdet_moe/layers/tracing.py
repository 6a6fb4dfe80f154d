"""Tracing: what the MoE layers of a model decide in a forward pass."""
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Callable, Dict, Iterator, List, Optional

import torch
from torch import Tensor, nn

from .decision import Decision
from .gates import global_average_pool
from .moe import Levels, MoELayer, moe_layers


@contextmanager
def traced(model: nn.Module,
           features: bool = False,
           failed: Optional[Callable[[str, Exception], None]] = None
           ) -> Iterator[Dict[str, List[Decision]]]:
    """Keep the decisions of all MoE layers during a ``with`` block.

    Args:
        model: Any module; inside of the block it is run once.
        features: Whether the decisions have the mean features of each sample.
        failed: Called with a layer's name and an exception if its decision
            could not be kept; the model runs on. If None, the exception is
            raised in the layer.

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
    traces = {
        name: _Trace(layer, features, failed and partial(failed, name))
        for name, layer in moe_layers(model).items()
    }
    try:
        yield {name: trace.decisions for name, trace in traces.items()}
    finally:
        for trace in traces.values():
            trace.end()


class _Trace:
    """What is traced of one layer: its inputs and its decisions."""

    def __init__(self, layer: MoELayer, features: bool,
                 failed: Optional[Callable[[Exception], None]]) -> None:
        self.decisions: List[Decision] = []
        self._failed = failed
        self._layer, self._inputs = layer, None
        self._handles = [layer.observe(self._see)]
        if features:
            self._handles.append(layer.register_forward_pre_hook(self._take))

    def end(self) -> None:
        for handle in self._handles:
            handle.remove()

    def _take(self, layer: MoELayer, args: tuple) -> None:
        x, = args
        self._inputs = [x] if isinstance(x, Tensor) else x

    def _see(self, decision: Decision) -> None:
        inputs, self._inputs = self._inputs, None
        try:
            kept = replace(
                decision.detach(),
                features=None if inputs is None else self._means(inputs))
        except Exception as error:
            if self._failed is None:
                raise
            self._failed(error)
        else:
            self.decisions.append(kept)

    @torch.no_grad()
    def _means(self, inputs: Levels) -> Tensor:
        """(N, C), float32."""
        scope = self._layer.scope
        return self._layer.seen(global_average_pool, scope.lay_out(inputs),
                                scope.shapes(inputs))
