"""Where the detections of CrowdDet come from: regions with several boxes."""
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .regions import RegionProvenance, match_regions


class CrowdProvenance(RegionProvenance):
    """A second stage in which each region can become several objects.

    Its head gives ``num_instance`` boxes to each region, one after the other,
    and their scores (background, object). The items are the numbers of the
    regions.
    """

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether a box head predicts several boxes of a class per region."""
        head = getattr(getattr(detector, 'roi_head', None), 'bbox_head', None)
        return hasattr(head, 'num_instance') and super().fits(detector)

    def _regions_of(self, found: InstanceData, every: InstanceData,
                    regions: int) -> Tensor:
        boxes = match_regions(found.bboxes, found.labels.long(), every.bboxes,
                              every.scores[:, 1:])
        # The box -1 is unknown, and so is its region.
        return boxes.div(self._head.num_instance, rounding_mode='floor')
