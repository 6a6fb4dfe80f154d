"""Who decided about what is predicted: attached to what a model returns."""
from contextlib import ExitStack, contextmanager
from functools import singledispatch
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import nn

from mmdet_moe.layers import Decision, traced

from .provenance import Provenance, Undecided, UnknownProvenance


class DecisionReporter:
    """Watches the predictions of a model, and says who decided.

    It acts in ``forward(mode='predict')``, so in OpenMMLab's tools and
    inferencers alike. The predictions stay what they are. Each data sample
    gets

    - ``decisions``: by the name of a MoE layer its :class:`.Decision` about
      this picture, on the CPU;
    - ``undecided``: by the name of a layer that has none, why.

    Args:
        model: A model of MMEngine's interface.
        provenance: Of the part of it that predicts.
        within: What comes before the names of the modules of that part.
    """

    def __init__(self, model: nn.Module, provenance: Provenance,
                 within: str = '') -> None:
        self.provenance = provenance
        self._within = within
        self._stack = ExitStack()
        self._paused = False
        #: Whether the decisions have the features that they were made of.
        self.features = False
        self._decisions: Dict[str, List[Decision]] = {}
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(
            self._after, with_kwargs=True, always_call=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Report nothing inside of the block: predictions are faster."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def _before(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        self._stack.close()
        if mode_of(args, kwargs) != 'predict':
            return
        # Of a teacher or student that predicts as a part of this model.
        for module in model.modules():
            inner = getattr(module, 'decision_reporter', self)
            if inner is not self:
                self._stack.enter_context(inner.paused())
        if not self._paused:
            self._decisions = self._stack.enter_context(
                traced(model, self.features))
            self._stack.enter_context(self.provenance.watch())

    def _after(self, model: nn.Module, args: tuple, kwargs: dict,
               output) -> None:
        self._stack.close()
        decisions, self._decisions = self._decisions, {}
        if decisions and output is not None:
            with torch.no_grad():
                self.report(output, decisions)

    def report(self, samples: Sequence,
               calls: Dict[str, List[Decision]]) -> None:
        """Attach to the data samples of a batch what was decided.

        Args:
            samples: As the model returned them.
            calls: By layer its decisions, one for each call.
        """
        whole, undecided = {}, {}
        for name, decisions in calls.items():
            try:
                decision, counts = self.provenance.about(
                    name.removeprefix(self._within), decisions, len(samples))
                whole[name] = decision.cpu(), _parts(counts)
            except Undecided as reason:
                undecided[name] = str(reason)
        for b, sample in enumerate(samples):
            extent = _extent(sample.metainfo)
            sample.decisions = {
                name: decision.part(*parts[b], extent=extent)
                for name, (decision, parts) in whole.items()
            }
            sample.undecided = undecided


@singledispatch
def reporter_of(model: nn.Module) -> DecisionReporter:
    """A new reporter for a model; those of detectors know more."""
    return DecisionReporter(model, UnknownProvenance(model))


def report_decisions(model: nn.Module) -> None:
    """Have a model report who decided, from now on; once is enough."""
    if not hasattr(model, 'decision_reporter'):
        model.decision_reporter = reporter_of(model)


def mode_of(args: tuple, kwargs: dict) -> str:
    """The mode in which ``forward(inputs, data_samples=None, mode='tensor')``
    is called."""
    return kwargs.get('mode', args[2] if len(args) > 2 else 'tensor')


def _parts(counts: Sequence[int]) -> List[Tuple[int, int]]:
    """First entry of each picture, and the one after its last."""
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    return list(zip(ends, ends[1:]))


def _extent(meta: dict) -> Optional[Tuple[float, float]]:
    """Height and width of what the maps cover, in the original picture's
    pixels; None if its size is not known."""
    size = meta.get('batch_input_shape', meta.get('img_shape'))
    if size is None:
        return None
    height, width = size[:2]
    x, y = meta.get('scale_factor', (1.0, 1.0))[:2]
    return height / y, width / x
