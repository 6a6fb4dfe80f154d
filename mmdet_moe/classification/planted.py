"""Generated pictures in CIFAR-100's format, with domains that are known.

Four superclasses, the domains, have five classes each. A superclass is told by
its ground, stripes of a direction and a colour of its own; a class by the
shape on it. The same five shapes are on every ground, so that a part of a
model that is responsible for a domain has its own task.
"""
from typing import Tuple

import cv2
import numpy as np

from .cifar import SIDE, Pictures

#: Colour (RGB), direction and width of the stripes in pixels.
GROUNDS = dict(
    meadow=((60, 140, 60), 0.0, 3.0),
    brick=((160, 70, 50), np.pi / 2, 4.0),
    water=((50, 90, 170), np.pi / 4, 6.0),
    sand=((190, 170, 100), 3 * np.pi / 4, 2.5))
SHAPES = ('disc', 'square', 'triangle', 'cross', 'ring')


def planted(number: int, seed: int) -> Pictures:
    """Draw pictures, of the classes in turns.

    Args:
        number: How many.
        seed: The same seed gives the same pictures.
    """
    classes = [f'{shape} on {ground}' for ground in GROUNDS
               for shape in SHAPES]
    labels = np.arange(number) % len(classes)
    superlabels = labels // len(SHAPES)
    grounds = list(GROUNDS.values())
    images = np.stack([
        _draw(np.random.default_rng((seed, i)), *grounds[superlabels[i]],
              SHAPES[labels[i] % len(SHAPES)])
        for i in range(number)
    ]) if number else np.empty((0, SIDE, SIDE, 3), np.uint8)
    return Pictures(images, labels, superlabels, classes, list(GROUNDS))


def _draw(rng: np.random.Generator, colour: Tuple[int, int, int],
          direction: float, width: float, shape: str) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    along = x * np.sin(direction) + y * np.cos(direction)
    stripes = np.sin(2 * np.pi * (along / width / 2 + rng.random()))
    picture = (np.array(colour) + rng.normal(0, 12, 3) +
               25 * stripes[..., None] + rng.normal(0, 10, (SIDE, SIDE, 3)))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    _shape(mask, rng.uniform(10, SIDE - 10, 2), rng.uniform(6, 9), shape)
    # Any colour: it tells neither the class nor the domain.
    picture[mask > 0] = rng.uniform(0, 255, 3) + rng.normal(
        0, 10, (int((mask > 0).sum()), 3))
    return picture.clip(0, 255).astype(np.uint8)


def _shape(mask: np.ndarray, centre: np.ndarray, half: float,
           name: str) -> None:
    x, y = centre
    if name in ('disc', 'ring'):
        at = int(round(x)), int(round(y))
        cv2.circle(mask, at, int(half), 1, -1)
        if name == 'ring':
            cv2.circle(mask, at, int(half / 2), 0, -1)
        return
    third = half / 3
    corners = dict(
        square=[(-half, -half), (half, -half), (half, half), (-half, half)],
        triangle=[(0, -half), (half, half), (-half, half)],
        cross=[(-half, -third), (-third, -third), (-third, -half),
               (third, -half), (third, -third), (half, -third),
               (half, third), (third, third), (third, half), (-third, half),
               (-third, third), (-half, third)])[name]
    cv2.fillPoly(mask, [np.round(np.array(corners) + (x, y)).astype(int)], 1)
