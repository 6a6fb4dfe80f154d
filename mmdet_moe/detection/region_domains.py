"""The domain of each region: that of the image it is cut out of."""
from contextlib import ExitStack
from typing import Optional, Sequence

from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.roi_extractors import BaseRoIExtractor
from torch import Tensor, nn

from mmdet_moe.layers import domains_are, moe_layers
from mmdet_moe.layers.domains import domains


def label_region_domains(model: nn.Module) -> None:
    """From now on give the layers of box heads one domain per region, if they
    have a constraint that needs domains.

    Args:
        model: A detector; its training gives one domain per image.
    """
    for roi_head in model.modules():
        if not hasattr(roi_head, 'bbox_roi_extractor'):
            continue
        heads = [
            head for head in roi_head.bbox_head.modules()
            if isinstance(head, BBoxHead) and any(
                soft.needs_domains for layer in moe_layers(head).values()
                for soft in layer.soft_constraints)
        ]
        if heads:
            _RegionDomains(heads, [
                x for x in roi_head.bbox_roi_extractor.modules()
                if isinstance(x, BaseRoIExtractor)])


class _RegionDomains:
    """Hooks of one RoI head. They hold no module, so they are copied with it.

    Args:
        heads: Box heads; each call is about the regions of the latest call of
            an extractor.
        extractors: RoI extractors.
    """

    def __init__(self, heads: Sequence[nn.Module],
                 extractors: Sequence[nn.Module]) -> None:
        self._images: Optional[Tensor] = None
        self._inside = ExitStack()
        for extractor in extractors:
            extractor.register_forward_pre_hook(
                self._extracted, with_kwargs=True)
        for head in heads:
            head.register_forward_pre_hook(self._begin)
            head.register_forward_hook(self._end, always_call=True)

    def _extracted(self, extractor: nn.Module, args: tuple,
                   kwargs: dict) -> None:
        rois = kwargs['rois'] if 'rois' in kwargs else args[1]
        self._images = rois[:, 0].long()

    def _begin(self, head: nn.Module, args: tuple) -> None:
        names = domains()
        if names is not None and self._images is not None:
            self._inside.enter_context(
                domains_are([names[i] for i in self._images.tolist()]))

    def _end(self, *_) -> None:
        self._images = None
        self._inside.close()
