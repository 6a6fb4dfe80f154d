"""Boxes of detections that are masks."""
from mmdet.structures.bbox import get_box_tensor
from mmdet.structures.mask import mask2bbox
from torch import Tensor


def boxes_of(found) -> Tensor:
    """The boxes of detections.

    A detector of masks without boxes gives boxes of zeros (SOLO). In their
    place come the smallest boxes around its masks.

    Args:
        found: ``bboxes`` of n detections, and maybe ``masks`` (n, H, W): an
            ``InstanceData`` or the like.

    Returns:
        (n, 4), or what else is in ``bboxes``.
    """
    boxes, masks = get_box_tensor(found.get('bboxes')), found.get('masks')
    if not isinstance(masks, Tensor) or not len(masks) or boxes.any():
        return boxes
    return mask2bbox(masks.bool()).to(boxes)
