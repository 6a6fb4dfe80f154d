"""COCO's object sizes."""
import numpy as np

#: COCO's object sizes and the areas in pixels between them.
SIZES = ('small', 'medium', 'large')
SIZE_BOUNDS = (32**2, 96**2)


def size_of(area: np.ndarray) -> np.ndarray:
    """Areas (n,) in pixels -> index into ``SIZES`` (n,)."""
    return np.digitize(area, SIZE_BOUNDS)
