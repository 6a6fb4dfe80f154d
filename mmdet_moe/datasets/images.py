"""Whether image files are what their annotation file says of them."""
import warnings
from pathlib import Path
from typing import Iterator, List, Optional, Sequence, Tuple

import cv2
import numpy as np
from PIL import Image

from mmdet_moe.files import DataError

#: Up to so many images of a file are looked at, evenly spread; if one of them
#: is wrong, all are. A header takes a tenth of a millisecond.
LOOKED_AT = 2000
#: Images of 16 bits whose values are looked at.
DECODED = 4
_ORIENTATION = 0x0112
#: EXIF orientations that turn an image by 90 degrees.
_TURNED = (5, 6, 7, 8)


def check_sizes(ann_file: Path, images: Sequence[dict], folder: Path,
                pipeline: Sequence[dict]) -> None:
    """Compare the sizes of image files with those of the annotation file.

    Only headers are read. Files that Pillow cannot open are left alone.

    Args:
        ann_file: For the message.
        images: Entries of the annotation file.
        folder: That their names are relative to.
        pipeline: Of the data set. Without a ``LoadImageFromFile`` nothing is
            known about what is loaded, and nothing is checked.

    Raises:
        DataError: A loaded image has another size than the file says.
    """
    loading = next((t for t in pipeline if str(t.get('type')).endswith(
        'LoadImageFromFile')), None)
    if loading is None:
        return
    kind = loading.get('color_type', 'color')
    turns = not ('ignore_orientation' in kind or kind == 'unchanged')
    step = -(-len(images) // LOOKED_AT)
    if any(_wrong(image, folder, turns) for image in images[::step]):
        wrong = [found for image in images
                 if (found := _wrong(image, folder, turns))]
        (image, size, orientation), others = wrong[0], len(wrong) - 1
        by = (f' (its EXIF orientation is {orientation}, by which it is turned '
              'as it is loaded)' if orientation in _TURNED and turns else '')
        raise DataError(
            f'{image["file_name"]} is {size[0]} x {size[1]} pixels (width x '
            f'height) when it is loaded{by}, and {ann_file} says '
            f'{image["width"]} x {image["height"]}' +
            (f'; so do {others} more of {len(images)} images' if others else
             '') + '. Boxes would be in other places: give the sizes of the '
            'files, and boxes in their pixels')
    if kind != 'unchanged':
        _check_depth(images[::step], folder)


def _wrong(image: dict, folder: Path, turns: bool
           ) -> Optional[Tuple[dict, Tuple[int, int], int]]:
    """An image whose size differs, its size and its EXIF orientation."""
    try:
        with Image.open(folder / image['file_name']) as file:
            size, orientation = file.size, file.getexif().get(_ORIENTATION, 1)
    except Exception:  # it is not Pillow that loads it
        return None
    if turns and orientation in _TURNED:
        size = size[::-1]
    same = size == (image['width'], image['height'])
    return None if same else (image, size, orientation)


def _check_depth(images: Sequence[dict], folder: Path) -> None:
    """Warn of images of 16 bits that are nearly black once they have 8."""
    deep = list(_of_16_bits(images, folder))
    most = max((int(x.max()) for x in deep), default=None)
    if most is not None and most < 2**14:
        warnings.warn(
            f'images of 16 bits in {folder} have values up to {most}; read '
            f'with 8 bits, they have values up to {most >> 8} of 255. Save '
            "them scaled, or load them with color_type='unchanged'")


def _of_16_bits(images: Sequence[dict],
                folder: Path) -> Iterator[np.ndarray]:
    found = 0
    for image in images[:DECODED * 4]:
        try:
            with Image.open(folder / image['file_name']) as file:
                deep = file.mode.startswith('I')
        except Exception:
            continue
        x = cv2.imread(str(folder / image['file_name']),
                       cv2.IMREAD_UNCHANGED) if deep else None
        if x is not None and x.dtype == np.uint16:
            yield x
            found += 1
        if found == DECODED:
            return


def check_boxes(ann_file: Path, content: dict) -> None:
    """Refuse boxes that are in another format than COCO's.

    Raises:
        DataError: All coordinates are at most 1; or boxes leave their images as
            x, y, width, height, and do not as x1, y1, x2, y2.
    """
    images = {i['id']: (i['width'], i['height']) for i in content['images']}
    boxes = np.array([a['bbox'] for a in content['annotations']],
                     float).reshape(-1, 4)
    if not len(boxes):
        return
    sizes = np.array([images[a['image_id']] for a in content['annotations']])
    if np.abs(boxes).max() <= 1 and sizes.min() > 1:
        raise DataError(
            f'{ann_file}: all coordinates of its {len(boxes)} boxes are at '
            'most 1: are they normalised? COCO has pixels, as x, y, width, '
            'height')
    outside = ~_inside(boxes[:, :2], boxes[:, :2] + boxes[:, 2:], sizes)
    if outside.mean() <= 0.05:
        return
    as_corners = _inside(boxes[:, :2], boxes[:, 2:], sizes) & (
        boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    where = _examples(content['annotations'], outside)
    if as_corners.mean() > 0.99:
        raise DataError(
            f'{ann_file}: {outside.sum()} of {len(boxes)} boxes leave their '
            f'image by more than 2 pixels ({where}): are they x1, y1, x2, y2? '
            'COCO has x, y, width, height')
    warnings.warn(f'{ann_file}: {outside.sum()} of {len(boxes)} boxes leave '
                  f'their image by more than 2 pixels ({where})')


def _inside(low: np.ndarray, high: np.ndarray,
            sizes: np.ndarray) -> np.ndarray:
    return ((low >= -2) & (high <= sizes + 2)).all(axis=1)


def _examples(annotations: List[dict], which: np.ndarray) -> str:
    first = annotations[int(which.argmax())]
    return f'such as {first["bbox"]} in image {first["image_id"]}'
