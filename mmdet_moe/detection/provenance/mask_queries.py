"""Where the masks of Mask2Former come from: its queries."""
from contextlib import contextmanager
from typing import Callable, Iterator, List, Tuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.models.provenance import Origin, Provenance

from .wrapping import observed


class MaskQueryProvenance(Provenance):
    """Detectors in which each query predicts one mask (MaskFormer,
    Mask2Former).

    The head selects queries by their class scores alone. It is therefore
    asked twice: the second time with the same class scores, and with masks
    that spell the number of their query. The masks that come back say which
    queries were selected, and in which order.

    The items are the numbers of the queries. There are no levels. If the
    second answer has other labels than the detections in question, their
    items are unknown (-1). Panoptic segments get none.
    """
    query_modules = ('panoptic_head.transformer_decoder.',
                     'panoptic_head.cls_embed', 'panoptic_head.mask_embed')

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self._selected: List[InstanceData] = []

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether the masks of a decoder's queries become instances."""
        return (hasattr(getattr(detector, 'panoptic_head', None),
                        'transformer_decoder')
                and hasattr(getattr(detector, 'panoptic_fusion_head', None),
                            'instance_postprocess'))

    @contextmanager
    def watch(self) -> Iterator[None]:
        self.num_items, self._selected = (), []
        with observed(self.detector.panoptic_head, 'predict',
                      self._count, self.failed), \
                observed(self.detector.panoptic_fusion_head,
                         'instance_postprocess', self._select_again,
                         self.failed):
            yield

    def _count(self, predict: Callable, outs: Tuple[Tensor, Tensor], *args,
               **kwargs) -> None:
        """Of class scores (B, Q, C + 1), and masks."""
        self.num_items = [outs[0].shape[1]] * outs[0].shape[0]

    def _select_again(self, select: Callable, found: InstanceData,
                      mask_cls: Tensor, mask_pred: Tensor) -> None:
        """Note which queries become the instances of an image.

        Args:
            select: The method of the head, which is called once per image.
            found: What it has returned.
            mask_cls: Class scores (Q, C + 1).
            mask_pred: Logits (Q, H, W) of masks.
        """
        queries = len(mask_cls)
        # The mask of query q is position q of a row.
        spelled = torch.eye(queries, device=mask_pred.device)[:, None] - 0.5
        self._selected.append(select(mask_cls, spelled))

    def detections(self, picture: int, found: InstanceData,
                   meta: dict) -> Origin:
        unknown = Origin.unknown(len(found.labels), found.labels.device)
        selected = self._selected[picture]
        if not torch.equal(selected.labels.to(found.labels), found.labels):
            return unknown
        items = selected.masks.flatten(1).float().argmax(dim=1)
        return Origin(unknown.levels, items.to(unknown.items))
