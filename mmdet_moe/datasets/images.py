"""Whether image files are what their annotation file says of them."""
import os
import warnings
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import cv2
import mmcv
import numpy as np
from PIL import Image

from mmdet_moe.config_parts import type_name
from mmdet_moe.files import DataError

#: Up to so many images of a file are looked at, evenly spread; if one of them
#: is wrong, all are. A header takes a tenth of a millisecond.
LOOKED_AT = 2000
#: Images whose values are looked at, and images of 16 bits are found by.
DECODED = 4
#: Suffixes of images that may have 16 bits.
_DEEP = ('.png', '.tif', '.tiff', '.jp2', '.pgm', '.ppm')
_ORIENTATION = 0x0112
#: EXIF orientations that turn an image by 90 degrees.
_TURNED = (5, 6, 7, 8)
Size = Tuple[int, int]


def outside(folder: Path, names: Sequence[str]) -> List[str]:
    """The names of files that are not in a folder, as ``../../x.png`` or an
    absolute path elsewhere. Links are not followed: whoever has made the
    folder has made them."""
    root = os.path.join(os.path.abspath(folder), '')
    return [name for name in names
            if not os.path.normpath(os.path.join(root, name)).startswith(root)]


def check_sizes(ann_file: Path, images: Sequence[dict], folder: Path,
                pipeline: Sequence[dict]) -> None:
    """Compare the sizes of loaded images with those of the annotation file.

    Only headers are read, and one image of each format that has an EXIF
    orientation. A difference of a pixel comes from rounding and is no error.
    Files that Pillow cannot open are left alone.

    Args:
        ann_file: For the message.
        images: Entries of the annotation file.
        folder: That their names are relative to.
        pipeline: Of the data set. Without a ``LoadImageFromFile`` nothing is
            known about what is loaded, and nothing is checked.

    Raises:
        DataError: A loaded image has another size than the file says.
    """
    loading = next((step for step in pipeline
                    if type_name(step) == 'LoadImageFromFile'), None)
    if loading is None:
        return
    flag = loading.get('color_type', 'color')
    backend = loading.get('imdecode_backend') or 'cv2'
    sizes = _LoadedSizes(folder, flag, backend)
    step = -(-len(images) // LOOKED_AT)
    if any(map(sizes.differs, images[::step])):
        wrong = [image for image in images if sizes.differs(image)]
        image, others = wrong[0], len(wrong) - 1
        (width, height), orientation = sizes.of(image)
        by = ('' if orientation is None else
              f' (its EXIF orientation is {orientation})')
        raise DataError(
            f'{image["file_name"]} is {width} x {height} pixels (width x '
            f'height) when it is loaded{by}, and {ann_file} says '
            f'{image["width"]} x {image["height"]}' +
            (f'; so do {others} more of {len(images)} images' if others else
             '') + '. Boxes would be in other places: give the sizes of the '
            "files, and boxes in their pixels" +
            ('' if orientation is None else ", or load the images with "
             "color_type='color_ignore_orientation' if the boxes are those of "
             'images that are not turned'))
    if flag != 'unchanged' and backend == 'cv2':
        _check_depth(images[::step], folder)


class _LoadedSizes:
    """Sizes of images as they are loaded, from their headers.

    Args:
        folder: Of the images.
        flag, backend: As of ``mmcv.imfrombytes``.
    """

    def __init__(self, folder: Path, flag: str, backend: str) -> None:
        self.folder, self.flag, self.backend = folder, flag, backend
        # Decoders differ in which formats they turn, and Pillow turns some
        # as it opens them: by format whether the header's size is turned.
        self._turned: Dict[tuple, bool] = {}

    def differs(self, image: dict) -> bool:
        """Whether it is known to have another size than its entry says."""
        found = self.of(image)
        if found is None:
            return False
        (width, height), orientation = found
        tolerance = 1 if orientation is None else 0
        return max(abs(width - image['width']),
                   abs(height - image['height'])) > tolerance

    def of(self, image: dict) -> Optional[Tuple[Size, Optional[int]]]:
        """(width, height), and the EXIF orientation if it is one that turns;
        None if it is not known."""
        path = self.folder / image['file_name']
        try:
            with Image.open(path) as file:
                size, kind = file.size, file.format
                orientation = file.getexif().get(_ORIENTATION)
            if orientation not in _TURNED:
                return size, None
            if size[0] != size[1] and (kind, orientation) not in self._turned:
                height, width = mmcv.imfrombytes(
                    path.read_bytes(), flag=self.flag,
                    backend=self.backend).shape[:2]
                self._turned[kind, orientation] = (width, height) != size
        except Exception:  # it is not Pillow that loads it
            return None
        turned = self._turned.get((kind, orientation), False)
        return (size[::-1] if turned else size), orientation


def _check_depth(images: Sequence[dict], folder: Path) -> None:
    """Warn of images of 16 bits that are nearly black once they have 8."""
    paths = [folder / image['file_name'] for image in images
             if image['file_name'].lower().endswith(_DEEP)]
    decoded = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
               for path in paths[::max(1, len(paths) // DECODED)][:DECODED])
    most = max((int(x.max()) for x in decoded
                if x is not None and x.dtype == np.uint16), default=None)
    if most is not None and most < 2**14:
        warnings.warn(
            f'images of 16 bits in {folder} have values up to {most}; read '
            f'with 8 bits, they have values up to {most >> 8} of 255. Save '
            "them scaled, or load them with color_type='unchanged'")


def check_boxes(ann_file: Path, content: dict) -> None:
    """Refuse boxes that are in another format than COCO's.

    Boxes that leave their image by more than two pixels get a warning if they
    are more than 5 %. Of boxes x1, y1, x2, y2 those that are centred right of
    the middle or below it seem to leave, which are most, and none leaves if
    it is read in that way.

    Raises:
        DataError: All coordinates are at most 1, or boxes are x1, y1, x2, y2.
    """
    boxes = np.array([a['bbox'] for a in content['annotations']],
                     float).reshape(-1, 4)
    try:
        images = {i['id']: (float(i['width']), float(i['height']))
                  for i in content['images']}
    except (KeyError, TypeError, ValueError):  # an evaluator needs no sizes
        return
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
    first = content['annotations'][int(outside.argmax())]
    said = (f'{ann_file}: {outside.sum()} of {len(boxes)} boxes leave their '
            f'image by more than 2 pixels, such as {first["bbox"]} in image '
            f'{first["image_id"]} of {images[first["image_id"]]} pixels: are '
            'they ' + ('x1, y1, x2, y2? COCO has x, y, width, height'
                       if as_corners.mean() > 0.99 else
                       'of images of another size?'))
    if as_corners.mean() > 0.99 and outside.mean() > 0.25:
        raise DataError(said)
    warnings.warn(said)


def _inside(low: np.ndarray, high: np.ndarray,
            sizes: np.ndarray) -> np.ndarray:
    return ((low >= -2) & (high <= sizes + 2)).all(axis=1)
