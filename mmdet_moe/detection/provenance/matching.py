"""Which detection an annotated object became."""
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmdet_moe.detection.boxes import overlaps

#: Intersection over union from which a detection is of an object, as for AP50.
OVERLAP = 0.5


def matching_detections(objects: InstanceData,
                        found: InstanceData) -> Tensor:
    """The detection that matches each object of a picture.

    It is of the object's class, overlaps it by 0.5 or more, and has the
    highest score of these; several objects may have the same one.

    Args:
        objects: ``bboxes`` (n, 4), or of another type, and ``labels`` (n,).
        found: ``bboxes`` (m, 4), ``labels`` and ``scores`` (m,), in the same
            coordinates.

    Returns:
        (n,) int64 indices out of m, -1 for an object without one.
    """
    device = found.labels.device
    # Labels may be floats (CrowdDet).
    nothing = torch.full((len(objects), ), -1, device=device)
    if not (len(objects) and len(found)):
        return nothing
    overlap = overlaps(objects.bboxes.to(device), found.bboxes)
    same = objects.labels.to(device)[:, None] == found.labels
    score, best = found.scores.where(
        same & (overlap >= OVERLAP), found.scores.new_tensor(-1)).max(dim=1)
    return best.where(score >= 0, nothing)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Values (m,) at indices (n,), -1 where the index is -1."""
    if not len(values):
        return torch.full_like(index, -1)
    return values[index.clamp_min(0)].where(index >= 0, index.new_tensor(-1))
