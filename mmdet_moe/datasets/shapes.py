"""Generated pictures in COCO format: data that needs no download.

Objects of five classes on textured backgrounds. A class has an outline and a
range of hues. The size of an object is drawn independently of its class, so
that a class does not give the size away; objects overlap, and some pictures
are crowded. Picture i of a seed is always the same, whatever their number.
"""
import json
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, Sequence, Tuple

import cv2
import numpy as np

from mmdet_moe.files import write_text

CLASSES = ('disc', 'square', 'triangle', 'cross', 'ring')

#: Range of the square root of the drawn area in pixels, by COCO size: each
#: size is drawn equally often. Small starts where a shape can still be told.
SIDES = {'small': (12, 31), 'medium': (34, 90), 'large': (100, 130)}

#: Hues of the classes are this many degrees apart, and spread by so many: two
#: neighbours overlap a little.
HUE_STEP, HUE_SPREAD = 72, 44

#: An object that is covered by others by more than this part is taken out.
MAX_COVERED = 0.6


def _thermal(rng, picture):
    """Grey: only how bright it is."""
    grey = picture @ (0.11, 0.59, 0.3)
    return np.repeat(grey[..., None], 3, axis=2)


def _night(rng, picture):
    """Dark and bluish, with the noise of a dim picture."""
    return picture * (0.45, 0.3, 0.22) + rng.normal(0, 9, picture.shape)


def _fog(rng, picture):
    """Blurred, and most of the contrast gone."""
    return 0.35 * cv2.GaussianBlur(picture, (0, 0), 1.6) + 135


def _print(rng, picture):
    """A coarse halftone: few levels of each colour, in dots."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    dots = 60 * np.sin(np.pi * x / 3) * np.sin(np.pi * y / 3)
    return 85 * np.rint((picture + dots[..., None]) / 85)


#: What the camera of each domain makes of a picture (H, W, 3) float.
DOMAINS = dict(day=lambda rng, picture: picture, thermal=_thermal,
               night=_night, fog=_fog, print=_print)


def generate(root, train: int, val: int, seed: int = 0,
             width: int = 256, height: int = 192,
             domains: bool = False) -> Path:
    """Write ``root/{train,val}/*.jpg`` and ``root/annotations/*.json``.

    The folder appears when it is complete; what was there before is kept if
    anything fails on the way.

    Args:
        root: Folder to make. It must not exist yet, or be empty.
        train: Number of training pictures, at least 1.
        val: Number of validation pictures, at least 1.
        seed: The same seed gives the same files.
        width, height: Size of a picture in pixels, at least 64.
        domains: Whether each picture is of one of ``DOMAINS``, in turns, and
            has its name as ``domain`` in the annotation file. What is drawn
            does not depend on the domain.

    Returns:
        ``root``.
    """
    root = Path(root)
    for key, value, low in (('train', train, 1), ('val', val, 1),
                            ('seed', seed, 0), ('width', width, 64),
                            ('height', height, 64)):
        if value < low:
            raise ValueError(f'{key}={value}: allowed is at least {low}')
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise FileExistsError(f'{root} is there already; remove it first')
    root.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=root.parent, prefix=f'.{root.name}.'))
    try:
        for split, (name, number) in enumerate((('train', train),
                                                ('val', val))):
            (part / name).mkdir()
            _write_split(part, name, number, (seed, split), (height, width),
                         list(DOMAINS) if domains else [])
        part.chmod(0o755)
        if root.exists():
            root.rmdir()
        part.rename(root)
    except BaseException:
        shutil.rmtree(part)
        raise
    return root


def _write_split(root: Path, name: str, number: int, seed: Tuple[int, int],
                 shape: Tuple[int, int], domains: Sequence[str]) -> None:
    images, annotations = [], []
    for i in range(number):
        own = dict(domain=domains[i % len(domains)]) if domains else {}
        picture, objects = draw_picture(
            np.random.default_rng((*seed, i)), shape, **own)
        file_name = f'{i:06d}.jpg'
        if not cv2.imwrite(
                str(root / name / file_name), picture,
                [cv2.IMWRITE_JPEG_QUALITY, 90]):
            raise OSError(f'cannot write {root / name / file_name}')
        images.append(
            dict(id=i, file_name=file_name, height=shape[0], width=shape[1],
                 **own))
        annotations += [
            # COCOeval takes the id 0 for no object.
            dict(id=len(annotations) + k, image_id=i, iscrowd=0, **o)
            for k, o in enumerate(objects, start=1)
        ]
    write_text(
        root / 'annotations' / f'instances_{name}.json',
        json.dumps(
            dict(
                info=dict(description=f'generated shapes, seed {seed[0]}'),
                images=images,
                annotations=annotations,
                categories=[
                    dict(id=c + 1, name=n, supercategory='shape')
                    for c, n in enumerate(CLASSES)
                ])))


def draw_picture(rng: np.random.Generator,
                 shape: Tuple[int, int],
                 domain: str = 'day') -> Tuple[np.ndarray, List[dict]]:
    """One picture (H, W, 3) uint8 and its annotations, without ids."""
    picture = _texture(rng, shape)
    owner = np.full(shape, -1)
    drawn: List[Dict] = []
    for category, centre, side in _layout(rng, shape):
        mask = _mask(rng, CLASSES[category], centre, side, shape)
        if _hides_too_much(mask, owner, drawn):
            continue
        _paint(rng, picture, mask, category)
        owner[mask] = len(drawn)
        drawn.append(dict(category_id=category + 1, pixels=mask.sum()))
    # The camera: a little blur and noise over edges that were drawn exactly.
    picture = cv2.GaussianBlur(picture, (3, 3), 0.6)
    picture = DOMAINS[domain](rng, picture) + rng.normal(0, 4, picture.shape)
    picture = picture.clip(0, 255).astype(np.uint8)
    return picture, [
        dict(category_id=d['category_id'], **_describe(owner == i))
        for i, d in enumerate(drawn)
    ]


def _layout(rng, shape):
    """Category, centre and side of what is to be drawn, largest first."""
    crowded = rng.random() < 0.25
    number = rng.integers(8, 16) if crowded else rng.integers(2, 7)
    # In a crowd the objects gather around one point.
    focus = rng.uniform(0.3, 0.7, 2) * shape
    items = []
    for _ in range(number):
        low, high = SIDES[rng.choice(list(SIDES))]
        side = np.exp(rng.uniform(np.log(low), np.log(high)))
        side = min(side, 0.65 * min(shape))
        margin = min(side / 2, 0.45 * min(shape))
        span = np.array(shape) - 2 * margin
        place = margin + rng.random(2) * span
        if crowded:
            spread = 0.25 * np.array(shape)
            place = (focus + rng.normal(0, 1, 2) * spread).clip(
                margin, margin + span)
        items.append((int(rng.integers(len(CLASSES))), place, side))
    return sorted(items, key=lambda item: -item[2])


def _mask(rng, name: str, centre: np.ndarray, side: float,
          shape: Tuple[int, int]) -> np.ndarray:
    """(H, W) bool of a turned shape whose area is about side^2."""
    # Half-width h of each shape's frame per unit of sqrt(area).
    t = 0.36  # half-thickness of the cross's bars, of its half-width
    outline = dict(
        square=([(-1, -1), (1, -1), (1, 1), (-1, 1)], 4.0),
        triangle=([(np.sin(a), -np.cos(a))
                   for a in np.arange(3) * 2 * np.pi / 3], 3 * 3**0.5 / 4),
        cross=([(-1, -t), (-t, -t), (-t, -1), (t, -1), (t, -t), (1, -t),
                (1, t), (t, t), (t, 1), (-t, 1), (-t, t), (-1, t)],
               4 * (2 * t - t * t)),
        disc=(_circle(1.0), np.pi),
        ring=(_circle(1.0), np.pi * (1 - 0.55**2)))
    points, area = outline[name]
    half = side / area**0.5
    turn = rng.uniform(0, 2 * np.pi)
    stretch = rng.uniform(0.85, 1.15)
    turned = np.array(points) * half * (stretch, 1 / stretch) @ np.array(
        [[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    canvas = np.zeros(shape, np.uint8)
    cv2.fillPoly(canvas, [np.rint(turned + centre[::-1]).astype(np.int32)], 1)
    if name == 'ring':
        cv2.fillPoly(canvas,
                     [np.rint(0.55 * turned + centre[::-1]).astype(np.int32)],
                     0)
    return canvas.astype(bool)


def _circle(radius: float) -> List[Tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return [(radius * np.cos(a), radius * np.sin(a)) for a in angles]


def _hides_too_much(mask: np.ndarray, owner: np.ndarray, drawn) -> bool:
    if not mask.any():
        return True
    for i, d in enumerate(drawn):
        if (owner == i)[~mask].sum() < (1 - MAX_COVERED) * d['pixels']:
            return True
    return False


def _paint(rng, picture: np.ndarray, mask: np.ndarray, category: int) -> None:
    """Fill the mask with a colour out of the class's, shaded or striped."""
    hue = (HUE_STEP * category + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 360
    saturation, value = rng.uniform(0.55, 1), rng.uniform(0.45, 1)
    colour = 255 * cv2.cvtColor(
        np.array([[[hue, saturation, value]]], np.float32),
        cv2.COLOR_HSV2BGR)[0, 0]
    rows, columns = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * columns + np.sin(angle) * rows
    if rng.random() < 0.3:
        shade = 22 * np.sign(np.sin(2 * np.pi * along / rng.uniform(6, 14)))
    else:
        shade = 50 * ((along - along.min()) / (np.ptp(along) + 1) - 0.5)
    picture[mask] = colour + shade[:, None]


def _texture(rng, shape: Tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float background: a gradient, cloudy noise, maybe stripes."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    # Backgrounds are greyish, objects are not.
    ends = rng.uniform(30, 225, (2, 1)) + rng.uniform(-25, 25, (2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x / width + np.sin(angle) * y / height
    along = (along - along.min()) / np.ptp(along)
    picture = ends[0] + along[..., None] * (ends[1] - ends[0])
    for cells in (3, 8, 24):
        grid = rng.normal(0, 1, (cells, cells, 3))
        cloud = cv2.resize(
            grid, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += rng.uniform(3, 14) * cloud
    if rng.random() < 0.4:
        angle = rng.uniform(0, 2 * np.pi)
        wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) /
                      rng.uniform(8, 40))
        picture += rng.uniform(5, 18) * wave[..., None]
    return picture


def _describe(visible: np.ndarray) -> dict:
    """Box, area and outline of what is seen of an object, as COCO has them."""
    rows, columns = np.nonzero(visible)
    x, y = int(columns.min()), int(rows.min())
    contours, _ = cv2.findContours(
        visible.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return dict(
        bbox=[x, y, int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1],
        area=int(visible.sum()),
        segmentation=[
            c.flatten().tolist() for c in contours if len(c) >= 3
        ])
