"""Where the masks of Mask2Former for video come from: its queries."""
from contextlib import contextmanager
from dataclasses import replace
from typing import Callable, Iterator, List, Sequence, Tuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.layers import Decision
from mmdet_moe.layers.routing import Routing

from .mask_queries import MaskQueryProvenance
from .wrapping import observed


class VideoQueryProvenance(MaskQueryProvenance):
    """Mask2Former for video instance segmentation
    (https://arxiv.org/abs/2112.10764): each query predicts one mask in all
    frames of a video.

    An image here is a frame. A decision about the queries is one about each
    frame.
    """
    query_modules = ('track_head.transformer_decoder.', 'track_head.cls_embed',
                     'track_head.mask_embed')

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        head = getattr(detector, 'track_head', None)
        return (hasattr(head, 'transformer_decoder')
                and hasattr(head, 'predict_by_feat'))

    @contextmanager
    def watch(self) -> Iterator[None]:
        self.num_items, self._selected = (), []
        with observed(self.detector.track_head, 'predict_by_feat',
                      self._select_in_frames, self.failed):
            yield

    def _select_in_frames(self, select: Callable, found: List[InstanceData],
                          mask_cls: Tensor, mask_pred: Tensor,
                          metas: Sequence[dict], **kwargs) -> None:
        """Note which queries become the instances of the frames.

        Args:
            select: The method of the head.
            found: What it has returned, for each of T frames.
            mask_cls: Class scores (Q, C + 1).
            mask_pred: Logits (Q, T, H, W) of masks.
            metas: T dicts, of the frames.
        """
        queries, frames = mask_pred.shape[:2]
        self.num_items = [queries] * frames
        # The mask of query q is position q of a row.
        spelled = torch.eye(queries, device=mask_pred.device) - 0.5
        self._selected = select(
            mask_cls, spelled[:, None, None].expand(-1, frames, -1, -1),
            [{**meta, 'img_shape': (1, queries)} for meta in metas],
            rescale=False)

    def about(self, layer: str, calls: Sequence[Decision],
              pictures: int) -> Tuple[Decision, Sequence[int]]:
        if layer.startswith(self.query_modules):
            calls = [_for_each_frame(call, pictures) for call in calls]
        return super().about(layer, calls, pictures)


def _for_each_frame(decision: Decision, frames: int) -> Decision:
    """(1, Q) queries -> (T, Q)."""
    (videos, *tokens), = decision.shapes
    if videos != 1 or not decision.scope.rows:
        return decision
    return replace(
        decision,
        routing=Routing.cat([decision.routing] * frames),
        features=None if decision.features is None else
        decision.features.repeat(frames, 1),
        real=None if decision.real is None else decision.real.repeat(frames),
        shapes=((frames, *tokens), ))
