"""Pictures for the page: test pictures with what is on them, and crops."""
import base64
import os
from dataclasses import dataclass
from typing import Callable, Dict, List, Literal, Tuple

import cv2
import numpy as np

from mmdet_moe.colours import EXPERT_COLOURS
from mmdet_moe.files import common_folder

from .records import Records, Things

#: (index, path) -> a test picture (height, width, RGB).
Image = Callable[[int, str], np.ndarray]
#: Longest side of a picture on the page, at most and at least, and height of a
#: crop, in pixels.
LONGEST, SHORTEST, CROP = 640, 128, 72
#: Bytes that a box takes on the page, about.
BOX = 1200
#: Crops of an expert at most, and of all experts together, about.
CROPS, ALL_CROPS = 6, 1200


@dataclass(frozen=True)
class Box:
    """What is annotated or predicted, on a picture of the page."""
    kind: Literal['labelled', 'predicted']
    x: float
    y: float
    width: float
    height: float
    #: By grouping, what group it is in; see :meth:`.Records.described`.
    groups: Dict[str, str]
    score: float
    #: By layer: leading expert, its weight; None without a level.
    experts: Dict[str, Tuple[int, float]]


@dataclass(frozen=True)
class ExpertMap:
    """The leading expert of each patch or position of a map, as a picture of
    the experts' colours, a pixel each.

    Attributes:
        url: Of that picture.
        x, y, width, height: What it covers, in pixels of the page's picture;
            more than the picture where that was padded.
        parts: The experts and what part of the map each leads, largest first.
    """
    url: str
    x: float
    y: float
    width: float
    height: float
    parts: List[Tuple[int, float]]


@dataclass(frozen=True)
class Shown:
    """A picture of the page.

    ``weights`` has by layer for each map the experts with a weight, highest
    first, or, where it was decided by patch or position, ``maps`` the leading
    experts as they lie on the picture.
    """
    name: str
    url: str
    width: int
    height: int
    boxes: List[Box]
    weights: Dict[str, List[List[Tuple[int, float]]]]
    maps: Dict[str, List[ExpertMap]]


@dataclass(frozen=True)
class Crop:
    """A thing, and what an expert weighs it with."""
    url: str
    groups: Dict[str, str]
    weight: float
    name: str


def gallery(records: Records, *, score_thr: float, image: Image,
            room: int) -> List[Shown]:
    """The test pictures that are to be shown, as many as fit.

    Args:
        records: Of a run.
        score_thr: Of the predictions that are drawn.
        image: Of the test pictures.
        room: Bytes that are left for them on the page.
    """
    shown, size, name_of = [], 0, _names(records)
    for i in records.shown:
        picture = records.pictures[i]
        pixels = image(i, picture.path)
        zoom = _zoom(pixels)
        height, width = (max(1, round(zoom * side))
                         for side in pixels.shape[:2])
        url = _data_url(
            cv2.resize(pixels, (width, height),
                       interpolation=cv2.INTER_AREA if zoom < 1 else
                       cv2.INTER_NEAREST))
        boxes = []
        for kind, things in (('labelled', records.labelled),
                             ('predicted', records.predicted)):
            here = things[(things.picture == i)
                          & (things.score >= score_thr)]
            boxes += _boxes(kind, records, here, zoom)
        weights, maps = {}, {}
        for name, layer in records.layers.items():
            if not layer.maps:  # regions and queries have no place on a map
                continue
            grids = layer.grids[i]
            if layer.patches == 1:
                weights[name] = [_highest(g[0, 0]) for g in grids]
            else:
                maps[name] = [
                    _expert_map(g.argmax(axis=-1), zoom * layer.frames[i])
                    for g in grids
                ]
        size += len(url) + BOX * len(boxes) + sum(
            len(m.url) for own in maps.values() for m in own)
        if size > room:
            break
        shown.append(
            Shown(
                name_of(i), url, round(zoom * picture.width),
                round(zoom * picture.height), boxes, weights, maps))
    return shown


def extremes(records: Records, layer: str, rng: np.random.Generator,
             image: Image) -> List[Dict[str, List[Crop]]]:
    """For each expert the things that it weighs ``most`` and ``least``.

    One of a picture at most; between equal weights chance decides. With
    hundreds of experts there are fewer of each.
    """
    things = records.labelled[records.located(layer, records.labelled)]
    if len(things) == 0:
        return []
    weights = records.weights(layer, things)
    experts = sum(layer.experts for layer in records.layers.values())
    number = min(CROPS, max(1, ALL_CROPS // (2 * experts)))
    name_of = _names(records)
    return [
        {
            which: [
                _crop(records, things, j, weights[j, e], image, name_of)
                for j in _first_of_each_picture(things, sign * weights[:, e],
                                                number, rng)
            ]
            for which, sign in (('most', -1), ('least', 1))
        } for e in range(weights.shape[1])
    ]


def _first_of_each_picture(things: Things, key: np.ndarray, number: int,
                           rng: np.random.Generator) -> List[int]:
    chosen, seen = [], set()
    for j in np.lexsort((rng.random(len(key)), key)):
        if things.picture[j] not in seen:
            seen.add(things.picture[j])
            chosen.append(int(j))
        if len(chosen) == number:
            break
    return chosen


def _boxes(kind: str, records: Records, things: Things,
           zoom: float) -> List[Box]:
    boxes, experts = zoom * _boxes_of(records, things), [
        {} for _ in range(len(things))]
    for name in records.layers:
        located = records.located(name, things).nonzero()[0]
        weights = records.weights(name, things[located])
        for j, w in zip(located, weights):
            experts[j][name] = int(w.argmax()), float(w.max())
    return [
        Box(
            kind, *np.round(boxes[j, :2], 1).tolist(),
            *np.round(boxes[j, 2:] - boxes[j, :2], 1).tolist(),
            records.described(things, j), float(things.score[j]), experts[j])
        for j in range(len(things))
    ]


def _zoom(pixels: np.ndarray) -> float:
    longest = max(pixels.shape[:2])
    return min(max(longest, SHORTEST), LONGEST) / longest


def _boxes_of(records: Records, things: Things) -> np.ndarray:
    """(n, 4) where things are: everywhere, if they have no box."""
    if things.box is not None:
        return things.box
    pictures = [records.pictures[i] for i in things.picture]
    return np.array([[0, 0, p.width, p.height] for p in pictures],
                    float).reshape(-1, 4)


def _highest(weights: np.ndarray) -> List[Tuple[int, float]]:
    order = np.argsort(-weights, kind='stable')
    return [(int(e), float(weights[e])) for e in order if weights[e] > 0]


def _expert_map(leading: np.ndarray, frame: np.ndarray) -> ExpertMap:
    """(H, W) leading experts, and where they begin and how far they reach."""
    colours = np.array(EXPERT_COLOURS, np.uint8)
    parts = np.bincount(leading.ravel()) / leading.size
    start, extent = frame
    leading = np.flip(leading, np.flatnonzero(extent < 0))
    y, x = np.minimum(start, start + extent).round(1)
    height, width = np.abs(extent).round(1)
    return ExpertMap(
        _data_url(colours[leading % len(colours)], 'png'), x, y, width, height,
        _highest(parts))


def _names(records: Records) -> Callable[[int], str]:
    """The file of a picture by its index, in the folder that all are in."""
    root = common_folder([p.path for p in records.pictures])
    return lambda i: os.path.relpath(
        os.path.abspath(records.pictures[i].path), root)


def _crop(records: Records, things: Things, j: int, weight: float,
          image: Image, name_of: Callable[[int], str]) -> Crop:
    index = int(things.picture[j])
    picture = records.pictures[index]
    pixels = image(index, picture.path)
    height, width = pixels.shape[:2]
    box = np.nan_to_num(_boxes_of(records, things[[j]])[0].astype(float))
    (left, right), (top, bottom) = (
        _around(*box[axis::2], side) for axis, side in ((0, width),
                                                        (1, height)))
    cut = pixels[top:bottom, left:right]
    zoom = CROP / cut.shape[0]
    width = min(max(1, round(zoom * cut.shape[1])), 3 * CROP)
    return Crop(
        _data_url(cv2.resize(cut, (width, CROP),
                             interpolation=cv2.INTER_AREA)),
        records.described(things, j), float(weight), name_of(index))


def _around(low: float, high: float, side: int) -> Tuple[int, int]:
    """The pixels of a box along one axis: with a margin of a fifth, which
    shows where the object is; inside of the picture, and at least one."""
    margin = 0.2 * abs(high - low)
    first, last = sorted((low, high))
    start = int(min(max(0, first - margin), side - 1))
    return start, int(max(start + 1, min(last + margin, side)))


def _data_url(picture: np.ndarray,
              kind: Literal['jpeg', 'png'] = 'jpeg') -> str:
    """The data URL of a picture (height, width, RGB)."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 80] if kind == 'jpeg' else []
    ok, code = cv2.imencode(f'.{kind}', picture[..., ::-1], options)
    if not ok:
        raise OSError(f'a picture could not be encoded as {kind.upper()}')
    return f'data:image/{kind};base64,' + base64.b64encode(code).decode()
