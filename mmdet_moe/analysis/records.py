"""Records: what a run over the test pictures leaves behind, as arrays.

I pictures, L maps of a layer, P patches of a map (1 where a decision is for
the whole map), E experts.
"""
from dataclasses import dataclass
from typing import Dict, List, Optional

import numpy as np

from mmdet_moe.evaluation.assignment_table import size_of

from .average_precision import AveragePrecision
from .information import Assignment
from .interventions import Intervention


@dataclass(frozen=True)
class Picture:
    """A test picture: its id in the annotation file, file, size in pixels."""
    img_id: int
    path: str
    height: int
    width: int


@dataclass(frozen=True)
class LayerRecord:
    """What a MoE layer decided.

    Attributes:
        weights: (I, L, P, E) expert weights.
        logits: (I, L, P, E) gate logits.
        cells: G; P = G * G.
        top_k: K, as trained.
        learned: Whether its gate is.
    """
    weights: np.ndarray
    logits: np.ndarray
    cells: int
    top_k: int
    learned: bool

    @property
    def experts(self) -> int:
        return self.weights.shape[-1]


@dataclass(frozen=True)
class Things:
    """Annotated objects, or detections: n of them.

    Attributes:
        picture: (n,) index of the picture.
        box: (n, 4) as x1, y1, x2, y2 in pixels of the original picture.
        label: (n,) class.
        area: (n,) in pixels; annotated, or of the box.
        level: (n,) pyramid level, -1 if it has none.
        score: (n,) of a detection; 1 for an object.
        true: (n,) whether a detection is one at IoU 0.5; True for an object.
        patch: By layer (n, L), which patch of each map its centre lies in.
    """
    picture: np.ndarray
    box: np.ndarray
    label: np.ndarray
    area: np.ndarray
    level: np.ndarray
    score: np.ndarray
    true: np.ndarray
    patch: Dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, rows) -> 'Things':
        return Things(
            *(getattr(self, name)[rows] for name in _COLUMNS),
            {name: patch[rows] for name, patch in self.patch.items()})

    @property
    def size(self) -> np.ndarray:
        """(n,) index into COCO's small, medium, large."""
        return size_of(self.area)

    @staticmethod
    def cat(parts: List['Things']) -> 'Things':
        """Join things, in order."""
        return Things(
            *(np.concatenate([getattr(p, name) for p in parts])
              for name in _COLUMNS), {
                  name: np.concatenate([p.patch[name] for p in parts])
                  for name in parts[0].patch
              })


_COLUMNS = ('picture', 'box', 'label', 'area', 'level', 'score', 'true')


@dataclass(frozen=True)
class Records:
    """Everything that the tables, figures and pictures are made of.

    Attributes:
        pictures: The I test pictures.
        classes: Names of the classes.
        supercategories: Their supercategories; None if the file has none.
        levels: L of the detector; 0 if its objects cannot be given levels.
        layers: By the name of the MoE layer.
        objects: What is annotated.
        detections: What was detected.
        ap: Of the detections.
        interventions: AP of the detections under each.
    """
    pictures: List[Picture]
    classes: List[str]
    supercategories: Optional[List[str]]
    levels: int
    layers: Dict[str, LayerRecord]
    objects: Things
    detections: Things
    ap: AveragePrecision
    interventions: Dict[Intervention, AveragePrecision]

    def located(self, layer: str, things: Things) -> np.ndarray:
        """(n,) bool: which things a layer has made a decision about.

        It has if it saw a single map, or the thing has a level.
        """
        if self.layers[layer].weights.shape[1] == 1:
            return np.ones(len(things), bool)
        return things.level >= 0

    def assignment(self, layer: str, things: Things) -> Assignment:
        """Who processed the things; all of them must be located."""
        record = self.layers[layer]
        index = (
            np.zeros_like(things.level)
            if record.weights.shape[1] == 1 else things.level)
        return Assignment(record.weights, things.picture, index,
                          things.patch[layer][np.arange(len(things)), index],
                          things.level)
