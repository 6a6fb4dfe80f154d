"""Boxes of any type: horizontal, or another one that a library registers.

MMDetection's heads take tensors of four numbers a box. Other libraries
register types of their own with MMDetection, such as the rotated boxes (five
numbers) and quadrilaterals (eight) of MMRotate, with the conversions between
them. What is asked here of a box is asked of its type.
"""
from typing import Optional, Union

from mmcv.ops import box_iou_rotated
from mmdet.structures.bbox import (
    BaseBoxes,
    HorizontalBoxes,
    get_box_tensor,
)
from mmdet.structures.bbox.box_type import box_types
from torch import Tensor

from mmdet_moe.models.frames import Frame
from mmdet_moe.models.provenance import Undecided

Boxes = Union[Tensor, BaseBoxes]
#: Numbers of a rotated box: centre, width, height and angle in radians.
ROTATED = 5


def box_type(numbers: int) -> type:
    """The type of boxes of so many numbers.

    Raises:
        Undecided: No type of boxes of so many numbers is registered.
    """
    if numbers == HorizontalBoxes.box_dim:
        return HorizontalBoxes
    for kind in box_types.values():
        if kind.box_dim == numbers:
            return kind
    raise Undecided(f'its boxes have {numbers} numbers, and no box type of so '
                    'many is registered with MMDetection')


def as_boxes(boxes: Boxes) -> BaseBoxes:
    """Boxes (n, 4), (n, 5) and so on, as those of their type; a copy."""
    boxes = get_box_tensor(boxes).clone()
    return box_type(boxes.shape[-1])(boxes, clone=False)


def converted(boxes: Boxes, numbers: int) -> BaseBoxes:
    """Boxes of any type as those of so many numbers."""
    boxes = as_boxes(boxes)
    if boxes.shape[-1] == numbers:
        return boxes
    return boxes.convert_to(box_type(numbers))


def enclosing(boxes: Boxes) -> Tensor:
    """The horizontal boxes (n, 4) around boxes of any type, as x1, y1, x2,
    y2; those themselves if they are horizontal."""
    boxes = get_box_tensor(boxes)
    if boxes.shape[-1] == HorizontalBoxes.box_dim:
        return boxes
    return as_boxes(boxes).convert_to(HorizontalBoxes).tensor


def in_input(boxes: Boxes, meta: dict) -> BaseBoxes:
    """Boxes from the coordinates of the original image to those of the
    model's input; a copy."""
    boxes = as_boxes(boxes)
    boxes.tensor = boxes.tensor.float()
    boxes.rescale_(tuple(map(float, meta.get('scale_factor', (1, 1))[:2])))
    return boxes


def flipped(boxes: Boxes, frame: Optional[Frame]) -> Boxes:
    """Boxes of the original image, in its pixels, as they are in the flipped
    one, or the other way round; the same if it is not flipped."""
    if frame is None or frame.direction is None:
        return boxes
    result = as_boxes(boxes)
    result.flip_(frame.size, frame.direction)
    return result if isinstance(boxes, BaseBoxes) else result.tensor


def overlaps(boxes: Boxes, others: Boxes) -> Tensor:
    """Intersection over union of boxes of any type, (n, m).

    Of ``boxes`` those that are of another type than ``others`` are converted.
    If they are not horizontal, quadrilaterals count as the smallest rotated
    boxes around them. MMRotate's own ``overlaps`` cannot be called.
    """
    horizontal = others.shape[-1] == HorizontalBoxes.box_dim
    numbers = HorizontalBoxes.box_dim if horizontal else ROTATED
    both = [converted(get_box_tensor(x).float(), numbers)
            for x in (boxes, others)]
    if horizontal:
        return HorizontalBoxes.overlaps(*both)
    return box_iou_rotated(*(x.tensor for x in both))


def areas(boxes: Boxes) -> Tensor:
    """(n,) areas of boxes of any type."""
    return as_boxes(boxes).areas
