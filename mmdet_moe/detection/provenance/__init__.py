"""Where detections come from: a pyramid level, a region, a query.

One class for each kind of detector; :func:`provenance_of` finds the one that
fits. A new kind of detector is a class in a file of its own, inserted into
``PROVENANCES`` before the others.
"""
from typing import Tuple

from mmdet.models.detectors import SemiBaseDetector
from mmdet.models.mot import BaseMOTModel
from torch import nn

from mmdet_moe.models.provenance import (
    Origin,
    Provenance,
    Undecided,
    UnknownProvenance,
)

from .crowd import CrowdProvenance
from .grids import GridProvenance
from .levels import LevelProvenance
from .mask_queries import MaskQueryProvenance
from .matching import matching_detections, take
from .queries import QueryProvenance
from .regions import RegionProvenance
from .sparse import SparseProvenance

__all__ = [
    'PROVENANCES', 'CrowdProvenance', 'GridProvenance', 'LevelProvenance',
    'MaskQueryProvenance', 'Origin', 'Provenance', 'QueryProvenance',
    'RegionProvenance', 'SparseProvenance', 'Undecided', 'UnknownProvenance',
    'matching_detections', 'predicting_part', 'provenance_of', 'take'
]

#: The first one that fits is taken. The last one fits always.
PROVENANCES = [
    SparseProvenance, CrowdProvenance, RegionProvenance, QueryProvenance,
    MaskQueryProvenance, GridProvenance, LevelProvenance, UnknownProvenance
]


def provenance_of(detector: nn.Module) -> Provenance:
    """What says where the detections of a detector come from."""
    return next(cls for cls in PROVENANCES if cls.fits(detector))(detector)


def predicting_part(detector: nn.Module) -> Tuple[str, nn.Module]:
    """The detector that predicts, and what comes before the names of its
    modules: a teacher or its student, the detector of a tracker, otherwise the
    detector as it is."""
    if isinstance(detector, BaseMOTModel):
        return 'detector.', detector.detector
    if not isinstance(detector, SemiBaseDetector):
        return '', detector
    options = detector.semi_test_cfg or {}
    if options.get('predict_on', 'teacher') == 'teacher':
        return 'teacher.', detector.teacher
    return 'student.', detector.student
