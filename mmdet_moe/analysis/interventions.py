"""Interventions: what becomes of the detections if experts are overruled."""
from dataclasses import asdict, dataclass
from itertools import permutations
from typing import (
    Collection,
    ContextManager,
    Dict,
    List,
    Literal,
    Tuple,
    Union,
)

from torch import nn

from mmdet_moe.layers import Forcing, MoELayer, forced

#: What can be changed.
KINDS = ('expert', 'drop', 'replace', 'top_k', 'random_routing')
#: Up to so many experts each takes the place of each other one: there are
#: E (E - 1) such runs.
MOST_REPLACED = 8
#: How often all experts are drawn at random; what is lost is the mean.
DRAWS = 5


@dataclass(frozen=True)
class Intervention:
    """A forcing of one layer; the other layers as they are.

    Attributes:
        layer: Its name in the model.
        forcing: An expert that does everything, one that is dropped, one in
            the place of another, how many are run per sample, or
            experts that are drawn at random.
    """
    layer: str
    forcing: Forcing

    @property
    def kind(self) -> Literal['expert', 'drop', 'replace', 'top_k',
                              'random_routing']:
        """What is changed."""
        if self.forcing.expert is not None:
            return 'expert'
        if self.forcing.replace:
            return 'replace'
        if self.forcing.random_routing is not None:
            return 'random_routing'
        return 'drop' if self.forcing.drop else 'top_k'

    @property
    def value(self) -> Union[int, Tuple[int, int]]:
        """Which expert, how many, or which draw; of ``'replace'`` the
        expert that is selected and the one that does its work."""
        value = getattr(self.forcing, self.kind)
        return value[0] if self.kind == 'drop' else value

    def applied(self, model: nn.Module) -> ContextManager:
        """The model is run in this way inside of the ``with`` block."""
        return forced(model, layers=self.layer, **asdict(self.forcing))


def plan(layers: Dict[str, MoELayer],
         kinds: Collection[str] = KINDS) -> List[Intervention]:
    """Each expert alone, each dropped, each in the place of each other one
    (of up to ``MOST_REPLACED``), K' = 1..E, and ``DRAWS`` draws of experts,
    layer by layer.

    K' = K is among them, though it changes nothing: it is a point of the
    curve over K'.

    Args:
        layers: By name.
        kinds: Which of these, out of ``KINDS``.
    """
    every = [
        Intervention(name, forcing) for name, layer in layers.items()
        if layer.num_experts > 1 for forcing in (
            *(Forcing(expert=e) for e in range(layer.num_experts)),
            *(Forcing(drop=(e, )) for e in range(layer.num_experts)),
            *(Forcing(replace=pair)
              for pair in permutations(range(layer.num_experts), 2)
              if layer.num_experts <= MOST_REPLACED),
            *(Forcing(top_k=k + 1) for k in range(layer.num_experts)),
            *(Forcing(random_routing=seed) for seed in range(DRAWS)
              if layer.top_k < layer.num_experts))
    ]
    return [one for one in every if one.kind in kinds]
