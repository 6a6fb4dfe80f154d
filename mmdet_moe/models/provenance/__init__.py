"""Where detections come from: a pyramid level, a region, a query.

One class for each kind of detector; :func:`provenance_of` finds the one that
fits. A new kind of detector is a class in a file of its own, added to
``PROVENANCES``.
"""
from typing import Optional

from torch import nn

from .base import Origin, Provenance
from .levels import LevelProvenance
from .matching import matching_detections, take
from .queries import QueryProvenance
from .regions import RegionProvenance

__all__ = [
    'PROVENANCES', 'LevelProvenance', 'Origin', 'Provenance',
    'QueryProvenance', 'RegionProvenance', 'matching_detections',
    'provenance_of', 'take'
]

#: The first one that fits is taken.
PROVENANCES = [RegionProvenance, QueryProvenance, LevelProvenance]


def provenance_of(detector: nn.Module) -> Optional[Provenance]:
    """What says where the detections of a detector come from, if anything
    does."""
    for cls in PROVENANCES:
        if cls.fits(detector):
            return cls(detector)
    return None
