"""Which experts processed each detection in the frames of a video."""
from typing import Any, Callable

from mmdet.models.mot import BaseMOTModel
from mmdet.structures import DetDataSample
from torch import nn

from mmdet_moe.models.provenance import UnknownProvenance
from mmdet_moe.models.reporting import DecisionReporter, reporter_of

from .provenance.wrapping import observed
from .reporting import DetectionReporter


class TrackingReporter(DetectionReporter):
    """Reports about the detector of a tracker, frame by frame.

    A tracker calls parts of its detector, never its ``forward``. A frame
    begins where the one before it ends, and ends when the tracker has updated
    its tracks. Then the data sample of the frame gets what
    :class:`.DetectionReporter` gives to an image; that of the video gets
    nothing, as it can hold only lists.

    Layers that the tracker itself calls, as in an embedding head, have a
    reason.

    Args:
        model: A tracker of MMDetection. One without ``detector`` and
            ``tracker`` is only warned about; that of Mask2Former for video is
            :class:`.VideoReporter`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._has_frames = (
            hasattr(model, 'detector') and hasattr(model, 'tracker'))
        if self._has_frames:
            super().__init__(model)
        else:
            DecisionReporter.__init__(self, model, UnknownProvenance(model))

    def _watch(self, model: nn.Module) -> None:
        if not self._has_frames:
            raise TypeError(f'{type(model).__name__} has no detector and '
                            'tracker whose frames could be observed')

        def end_frame(track: Callable, tracks: Any, *args, **kwargs) -> None:
            frames = [x for x in (*args, *kwargs.values())
                      if isinstance(x, DetDataSample)]
            calls = self._end()
            if calls:
                self._attach(frames[:1], calls)
            self._begin(model)

        self._stack.enter_context(observed(
            model.tracker, 'track', end_frame, self.provenance.failed))
        super()._watch(model)

    def _after(self, model: nn.Module, args: tuple, kwargs: dict,
               output) -> None:
        self._end()  # no frame is open any more
        if output is not None and self.provenance.failure is not None:
            self.error_text(self.provenance.failure)


reporter_of.register(BaseMOTModel, TrackingReporter)
