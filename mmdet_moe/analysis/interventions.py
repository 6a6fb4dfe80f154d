"""Interventions: what becomes of the detections if experts are overruled."""
from dataclasses import dataclass
from itertools import permutations
from typing import (
    Callable,
    Collection,
    ContextManager,
    Dict,
    Iterable,
    List,
    Tuple,
    Union,
)

from torch import nn

from mmdet_moe.layers import MoELayer, forced

#: Up to so many experts each takes the place of each other one: there are
#: E (E - 1) such runs.
MOST_REPLACED = 8
#: How often all experts are drawn at random; what is lost is the mean.
DRAWS = 5

#: What can be changed, by the argument of :func:`~mmdet_moe.layers.force` that
#: does it; and the values that it is given for a layer.
KINDS: Dict[str, Callable[[MoELayer], Iterable]] = dict(
    expert=lambda layer: range(layer.num_experts),
    drop=lambda layer: range(layer.num_experts),
    replace=lambda layer: (permutations(range(layer.num_experts), 2)
                           if layer.num_experts <= MOST_REPLACED else ()),
    # K' = K is among them, though it changes nothing: it is a point of the
    # curve over K'.
    top_k=lambda layer: range(1, layer.num_experts + 1),
    random_routing=lambda layer: range(
        DRAWS if layer.top_k < layer.num_experts else 0))


@dataclass(frozen=True)
class Intervention:
    """A forcing of one layer; the other layers as they are.

    Attributes:
        layer: Its name in the model.
        kind: What is changed, out of ``KINDS``.
        value: Which expert, how many, or which draw; of ``'replace'`` the
            expert that is selected and the one that does its work.
    """
    layer: str
    kind: str
    value: Union[int, Tuple[int, int]]

    def applied(self, model: nn.Module, batch: int = 0) -> ContextManager:
        """The model is run in this way inside of the ``with`` block.

        Args:
            model: With the layer.
            batch: A number of the batch, so that each is drawn for anew, and
                again in the same way.
        """
        value = self.value
        if self.kind == 'random_routing':
            value = value + DRAWS * batch
        return forced(model, layers=self.layer, **{self.kind: value})


def plan(layers: Dict[str, MoELayer],
         kinds: Collection[str] = tuple(KINDS)) -> List[Intervention]:
    """Each expert alone, each dropped, each in the place of each other one
    (of up to ``MOST_REPLACED``), K' = 1..E, and ``DRAWS`` draws of experts,
    layer by layer.

    Args:
        layers: By name.
        kinds: Which of these, out of ``KINDS``.
    """
    return [
        Intervention(name, kind, value) for name, layer in layers.items()
        if layer.num_experts > 1 for kind, values in KINDS.items()
        if kind in kinds for value in values(layer)
    ]
