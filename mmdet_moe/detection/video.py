"""Which experts processed each mask in the frames of a video."""
from typing import Dict, List, Sequence

from mmdet.models.vis import Mask2FormerVideo
from mmdet.structures import DetDataSample
from torch import nn

from mmdet_moe.layers import Decision
from mmdet_moe.models.reporting import DecisionReporter, reporter_of

from .provenance.video_queries import VideoQueryProvenance
from .reporting import DetectionReporter


class VideoReporter(DetectionReporter):
    """Reports about the frames of a model that predicts a video at once.

    The data sample of each frame gets what :class:`.DetectionReporter` gives
    to an image, with ``pred_track_instances`` in place of ``pred_instances``.

    Args:
        model: Mask2Former for video.
    """

    def __init__(self, model: nn.Module) -> None:
        DecisionReporter.__init__(self, model, VideoQueryProvenance(model))

    def _attach(self, output: Sequence,
                decisions: Dict[str, List[Decision]]) -> None:
        for video in output:
            frames = video.video_data_samples
            images = [_as_image(frame) for frame in frames]
            super()._attach(images, decisions)
            for frame, image in zip(frames, images):
                for key in ('decisions', 'undecided', 'gt_origins'):
                    if key in image:
                        setattr(frame, key, image.get(key))


reporter_of.register(Mask2FormerVideo, VideoReporter)


def _as_image(frame: DetDataSample) -> DetDataSample:
    """A data sample that shares its instances with a frame."""
    image = DetDataSample(metainfo=frame.metainfo)
    image.pred_instances = frame.pred_track_instances
    if 'gt_instances' in frame:
        image.gt_instances = frame.gt_instances
    return image
