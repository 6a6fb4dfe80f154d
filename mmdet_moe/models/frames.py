"""How the input of a model lies in the original image."""
from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np

from .provenance import Undecided

#: Whether y and x are flipped, by MMDetection's ``flip_direction``.
_FLIPPED = dict(
    horizontal=(False, True), vertical=(True, False), diagonal=(True, True))


@dataclass(frozen=True)
class Frame:
    """What the input of a model covers of the original image, y and x.

    Attributes:
        start: Where it begins, in pixels of the original image.
        extent: Its height and width, likewise; negative where it is flipped.
        direction: ``flip_direction``, if it is flipped.
        size: Height and width of the image in the input, in pixels of the
            original image: what it is flipped in.
    """
    start: Tuple[float, float]
    extent: Tuple[float, float]
    direction: Optional[str]
    size: Tuple[float, float]


def frame_of(meta: dict) -> Optional[Frame]:
    """The frame of an image, by its metainfo.

    ``scale_factor`` (x, y), ``flip`` and ``flip_direction`` are MMDetection's,
    and ``pad_param`` (top, bottom, left, right) is MMYOLO's, whose images are
    in the middle of the input.

    Returns:
        None if the size of the input is not known.

    Raises:
        Undecided: ``flip_direction`` is no direction, or
            ``homography_matrix`` says that the image was transformed by
            more than scaling, padding and flipping.
    """
    shape = meta.get('img_shape')
    whole = meta.get('batch_input_shape', shape)
    if whole is None:
        return None
    scale = tuple(map(float, meta.get('scale_factor', (1, 1))[:2]))[::-1]
    before = tuple(map(float, meta.get('pad_param', (0, 0, 0, 0))))[::2]
    direction = meta.get('flip_direction') if meta.get('flip') else None
    if direction is not None and direction not in _FLIPPED:
        raise Undecided(f'its image has flip_direction={direction!r}; known '
                        f'are {", ".join(_FLIPPED)}')
    flipped = _FLIPPED.get(direction, (False, False))
    inside = (shape or whole)[:2]
    ends = [n if flip else 0 for flip, n in zip(flipped, inside)]
    _check_homography(meta, scale, before, flipped, inside)
    return Frame(
        tuple((-p if not flip else end - p) / s
              for flip, end, p, s in zip(flipped, ends, before, scale)),
        tuple((-n if flip else n) / s
              for flip, n, s in zip(flipped, whole[:2], scale)),
        direction,
        tuple((n - 2 * p) / s for n, p, s in zip(inside, before, scale)))


def _check_homography(meta: dict, scale, before, flipped, inside) -> None:
    """Compare where the corners of the image go with what MMDetection's
    transforms have recorded."""
    recorded = meta.get('homography_matrix')
    if recorded is None:
        return
    height, width = inside
    corners = np.array(
        [[0, 0], [0, width / scale[1]], [height / scale[0], 0]])
    ours = corners * scale + before
    for axis, flip in enumerate(flipped):
        if flip:
            ours[:, axis] = inside[axis] - ours[:, axis]
    x, y, w = np.asarray(recorded, float) @ np.stack(
        [corners[:, 1], corners[:, 0], np.ones(3)])
    if np.abs(np.stack([y / w, x / w], axis=1) - ours).max() > 2:
        raise Undecided(
            'its image was rotated, sheared or cropped (homography_matrix), '
            'so it is not known which part of a map is which part of the '
            'image')
