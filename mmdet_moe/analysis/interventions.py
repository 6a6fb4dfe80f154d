"""Interventions: what becomes of the detections if experts are overruled."""
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import ContextManager, Dict, Iterator, List, Literal

from torch import nn

from mmdet_moe.layers import Forcing, MoELayer, RememberingDispatch, forced


@dataclass(frozen=True)
class Intervention:
    """A forcing of one layer; the other layers as they are.

    Attributes:
        layer: Its name in the model.
        forcing: An expert that does everything, one that is dropped, or how
            many are run per sample.
    """
    layer: str
    forcing: Forcing

    @property
    def kind(self) -> Literal['expert', 'drop', 'top_k']:
        """What is changed."""
        if self.forcing.expert is not None:
            return 'expert'
        return 'drop' if self.forcing.drop else 'top_k'

    @property
    def value(self) -> int:
        """Which expert, or how many."""
        value = getattr(self.forcing, self.kind)
        return value[0] if self.kind == 'drop' else value

    def applied(self, model: nn.Module) -> ContextManager:
        """The model is run in this way inside of the ``with`` block."""
        return forced(model, layers=self.layer, **asdict(self.forcing))


def plan(layers: Dict[str, MoELayer]) -> List[Intervention]:
    """Each expert alone, each dropped, and K' = 1..E, layer by layer.

    K' = K is among them, though it changes nothing: it is a point of the
    curve over K'.
    """
    return [
        Intervention(name, forcing) for name, layer in layers.items()
        if layer.num_experts > 1 for forcing in (
            *(Forcing(expert=e) for e in range(layer.num_experts)),
            *(Forcing(drop=(e, )) for e in range(layer.num_experts)),
            *(Forcing(top_k=k + 1) for k in range(layer.num_experts)))
    ]


@contextmanager
def outputs_kept(layers: Dict[str, MoELayer]) -> Iterator[None]:
    """Run each expert once on the same features inside of the block."""
    before = {name: layer.dispatch for name, layer in layers.items()}
    for layer in layers.values():
        layer.dispatch = RememberingDispatch()
    try:
        yield
    finally:
        for name, layer in layers.items():
            layer.dispatch = before[name]


@contextmanager
def features_kept(detector: nn.Module) -> Iterator['KeptFeatures']:
    """Compute backbone and neck once for the runs inside of the block.

    For any detector of MMDetection, as they all go through
    ``extract_feat``. The runs must be on one batch.
    """
    compute = detector.extract_feat
    kept = KeptFeatures(compute)
    detector.extract_feat = kept  # hides the method
    try:
        yield kept
    finally:
        del detector.extract_feat


class KeptFeatures:
    """In the place of ``extract_feat``.

    Attributes:
        value: The features, None before the first run.
    """

    def __init__(self, compute) -> None:
        self._compute = compute
        self.value = None

    def __call__(self, batch_inputs):
        if self.value is None:
            self.value = self._compute(batch_inputs)
        return self.value

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Compute anew inside of the block, and then go on with the old."""
        kept, self.value = self.value, None
        try:
            yield
        finally:
            self.value = kept


def before_the_head(layer: str) -> bool:
    """Whether a layer is part of what ``extract_feat`` computes."""
    return layer.startswith(('backbone.', 'neck.'))
