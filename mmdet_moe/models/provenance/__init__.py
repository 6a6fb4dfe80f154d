"""Where detections come from: a pyramid level, a region, a query.

One class for each kind of detector; :func:`provenance_of` finds the one that
fits. A new kind of detector is a class in a file of its own, inserted into
``PROVENANCES`` before the others.
"""
from torch import nn

from .base import Origin, Provenance, Undecided, UnknownProvenance
from .levels import LevelProvenance
from .matching import matching_detections, take
from .queries import QueryProvenance
from .regions import RegionProvenance

__all__ = [
    'PROVENANCES', 'LevelProvenance', 'Origin', 'Provenance',
    'QueryProvenance', 'RegionProvenance', 'Undecided', 'UnknownProvenance',
    'matching_detections', 'provenance_of', 'take'
]

#: The first one that fits is taken. The last one fits always.
PROVENANCES = [
    RegionProvenance, QueryProvenance, LevelProvenance, UnknownProvenance
]


def provenance_of(detector: nn.Module) -> Provenance:
    """What says where the detections of a detector come from."""
    return next(cls for cls in PROVENANCES if cls.fits(detector))(detector)
