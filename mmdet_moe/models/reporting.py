"""Who decided about what is predicted: attached to what a model returns."""
import inspect
import warnings
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import singledispatch
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from torch import nn

from mmdet_moe.layers import Decision, moe_layers, traced

from .frames import frame_of
from .padding import ImagesInBatch
from .provenance import Provenance, Undecided, UnknownProvenance


class DecisionReporter:
    """Watches the predictions of a model, and says who decided.

    It acts in ``forward(mode='predict')``, so in OpenMMLab's tools and
    inferencers alike. The predictions stay what they are, also where it fails:
    an error becomes a reason, and a warning once. Each data sample gets

    - ``decisions``: by the name of a MoE layer its :class:`.Decision` about
      this picture, on the CPU;
    - ``undecided``: by the name of a layer that has none, why. What begins
      with ``'error: '`` is an error of the report.

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
        self._untraced: Dict[str, Exception] = {}
        self._warned: Set[str] = set()
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
        self._end()
        if mode_of(args, kwargs, model) == 'predict':
            self._begin(model)

    def _begin(self, model: nn.Module) -> None:
        """Watch a prediction from here on; what fails is noted."""
        try:
            self._watch(model)
        except Exception as error:
            self.provenance.failed(error)

    def _watch(self, model: nn.Module) -> None:
        # Of a teacher or student that predicts as a part of this model.
        for module in model.modules():
            inner = getattr(module, 'decision_reporter', self)
            if inner is not self:
                self._stack.enter_context(inner.paused())
        if not self._paused:
            self.provenance.failure, self._untraced = None, {}
            self._decisions = {name: [] for name in moe_layers(model)}
            self._decisions = self._stack.enter_context(
                traced(model, self.features, self._untraced.__setitem__))
            self._stack.enter_context(self.provenance.watch())

    def _end(self) -> Dict[str, List[Decision]]:
        """Stop watching; the decisions until here, by layer."""
        try:
            self._stack.close()
        except Exception as error:
            self.provenance.failed(error)
        decisions, self._decisions = self._decisions, {}
        return decisions

    def _after(self, model: nn.Module, args: tuple, kwargs: dict,
               output) -> None:
        decisions = self._end()
        if not decisions or output is None:
            return
        self._attach(output, decisions)

    def _attach(self, output: Sequence,
                decisions: Dict[str, List[Decision]]) -> None:
        """Report to the data samples; if that fails, the reason."""
        try:
            with torch.no_grad():
                self.report(output, decisions)
        except Exception as error:
            reason = self.error_text(error)
            for sample in output if isinstance(output, (list, tuple)) else ():
                sample.decisions = {}
                sample.undecided = dict.fromkeys(decisions, reason)

    def error_text(self, error: Exception) -> str:
        """An error of the report as a reason, for ``undecided``; it is warned
        of once."""
        text = f'error: {type(error).__name__}: {error}'
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn('It cannot be reported which experts processed a '
                          f'prediction ({text}). The prediction itself is '
                          'not affected.')
        return text

    @contextmanager
    def reasons(self, undecided: Dict[str, str],
                name: str) -> Iterator[None]:
        """Inside of the block, a failure is why something is not reported.

        Args:
            undecided: Gets the reason.
            name: Of the layer that has no decision, or ``'gt_origins'``.
        """
        try:
            yield
        except Undecided as reason:
            undecided[name] = str(reason)
        except Exception as error:
            undecided[name] = self.error_text(error)

    def report(self, samples: Sequence,
               calls: Dict[str, List[Decision]]) -> None:
        """Attach to the data samples of a batch what was decided.

        Args:
            samples: As the model returned them.
            calls: By layer its decisions, one for each call.
        """
        parts: Dict[str, List[Decision]] = {}
        undecided: Dict[str, str] = {}
        for name, decisions in calls.items():
            with self.reasons(undecided, name):
                failure = self.provenance.failure or self._untraced.get(name)
                if failure is not None:
                    raise failure
                decision, counts = self.provenance.about(
                    name.removeprefix(self._within), decisions, len(samples))
                decision = decision.cpu()
                parts[name] = [
                    _framed(decision.part(*part), sample.metainfo)
                    for part, sample in zip(_parts(counts), samples)
                ]
        for b, sample in enumerate(samples):
            sample.decisions = {name: own[b] for name, own in parts.items()}
            sample.undecided = dict(undecided)


@singledispatch
def reporter_of(model: nn.Module) -> DecisionReporter:
    """A new reporter for a model; those of detectors know more."""
    return DecisionReporter(model, UnknownProvenance(model))


def report_decisions(model: nn.Module) -> None:
    """Have a model report who decided, from now on, and decide about images
    without their padding; once is enough."""
    if not hasattr(model, 'decision_reporter'):
        ImagesInBatch(model)
        model.decision_reporter = reporter_of(model)


def mode_of(args: tuple, kwargs: dict,
            model: Optional[nn.Module] = None) -> str:
    """The mode in which ``forward(inputs, data_samples=None, mode='tensor')``
    is called.

    Args:
        args, kwargs: Of the call.
        model: Whose default counts where no mode is given: that of trackers
            is ``'predict'``.
    """
    if 'mode' in kwargs:
        return kwargs['mode']
    if len(args) > 2:
        return args[2]
    mode = None if model is None else inspect.signature(
        model.forward).parameters.get('mode')
    return 'tensor' if mode is None else mode.default


def samples_of(args: tuple, kwargs: dict) -> Optional[Sequence]:
    """The data samples with which it is called."""
    return kwargs.get('data_samples', args[1] if len(args) > 1 else None)


def _parts(counts: Sequence[int]) -> List[Tuple[int, int]]:
    """First entry of each picture, and the one after its last."""
    ends = torch.tensor([0, *counts]).cumsum(0).tolist()
    return list(zip(ends, ends[1:]))


def _framed(decision: Decision, meta: dict) -> Decision:
    """A decision about one image, in the coordinates of the original."""
    frame = frame_of(meta)
    if frame is None:
        return decision
    return replace(decision, start=frame.start, extent=frame.extent)
