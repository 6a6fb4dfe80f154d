"""Where the detections of a transformer decoder come from: its queries."""
from contextlib import contextmanager
from typing import Callable, Iterator, List, Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.models.provenance import Origin, Provenance

from .wrapping import observed


class QueryProvenance(Provenance):
    """Detectors with a decoder, in which each query predicts one box.

    The head selects queries by their class scores alone. It is therefore
    asked twice: the second time with the same class scores, and with boxes
    that spell the number of their query. The boxes that come back say which
    queries were selected, and in which order.

    The items are the numbers of the queries in the decoder's output. There
    are no levels. If the head's second answer has other labels or scores than
    the detections in question, their items are unknown (-1).
    """

    query_modules = ('decoder.', 'bbox_head.')

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self._selected: List[InstanceData] = []

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether a head turns the output of a decoder into detections."""
        head = getattr(detector, 'bbox_head', None)
        return (hasattr(detector, 'decoder')
                and hasattr(detector, 'num_queries')
                and hasattr(head, 'predict_by_feat')
                and hasattr(head, '_predict_by_feat_single'))

    @contextmanager
    def watch(self) -> Iterator[None]:
        self.num_items, self._selected = (), []
        with observed(self.detector.bbox_head, 'predict_by_feat',
                      self._predict_again, self.failed):
            yield

    def _predict_again(self, predict: Callable, found: List[InstanceData],
                       cls_scores: Tensor, bbox_preds: Tensor,
                       batch_img_metas: Sequence[dict], **kwargs) -> None:
        """Note which queries the head selects.

        Args:
            predict: The method of the head.
            found: What it has predicted.
            cls_scores: Class scores (layers, B, Q, C).
            bbox_preds: Boxes (layers, B, Q, 4).
            batch_img_metas: B dicts, of the pictures.
            kwargs: Further arguments of the method.
        """
        queries = bbox_preds.shape[-2]
        self.num_items = [queries] * len(found)
        # In a picture of Q x Q pixels the box of query q is the point
        # (q + 0.5, q + 0.5): half a pixel from the next integer, where
        # rounding errors do not reach for any number of queries in use.
        place = torch.arange(queries, device=bbox_preds.device) + 0.5
        place = (place / queries)[:, None].expand(-1, 2)
        points = torch.cat([place, torch.zeros_like(place)], dim=1)
        square = [{**m, 'img_shape': (queries, queries)}
                  for m in batch_img_metas]
        self._selected = predict(
            cls_scores,
            points.expand(bbox_preds.shape),
            batch_img_metas=square,
            **{**kwargs, 'rescale': False})

    def detections(self, picture: int, found: InstanceData,
                   meta: dict) -> Origin:
        selected = self._selected[picture].to(found.labels.device)
        unknown = Origin.unknown(len(found.labels), found.labels.device)
        if not (torch.equal(selected.labels, found.labels)
                and torch.equal(selected.scores, found.scores)):
            return unknown
        return Origin(unknown.levels, selected.bboxes[:, 0].floor().long())
