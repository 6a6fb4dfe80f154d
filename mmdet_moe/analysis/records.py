"""Records: what a run over the test pictures leaves behind, as arrays.

I pictures, L maps of a layer, P patches of a map (1 where a decision is for
the whole map), E experts.
"""
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Tuple

import numpy as np

from mmdet_moe.evaluation.assignment_table import size_of

from .average_precision import AveragePrecision
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
        distinct: (I, L, P) bool: False where a map has fewer patches than P,
            and the decision is that of another patch once more.
        grid: G; P = G * G.
        top_k: K, as trained.
    """
    weights: np.ndarray
    logits: np.ndarray
    distinct: np.ndarray
    grid: int
    top_k: int

    @property
    def experts(self) -> int:
        """E"""
        return self.weights.shape[-1]

    @property
    def maps(self) -> int:
        """L"""
        return self.weights.shape[1]


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
        """Join things, in order; of the layers that the last ones have."""
        return Things(
            *(np.concatenate([getattr(p, name) for p in parts])
              for name in _COLUMNS), {
                  name: np.concatenate([p.patch[name] for p in parts])
                  for name in parts[-1].patch
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
        left_out: By the name of a MoE layer of which nothing is known, why.
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
    left_out: Dict[str, str] = field(default_factory=dict)

    def located(self, layer: str, things: Things) -> np.ndarray:
        """(n,) bool: which things a layer has made a decision about.

        It has if it saw a single map, or the thing has a level.
        """
        if self.layers[layer].maps == 1:
            return np.ones(len(things), bool)
        return things.level >= 0

    def places(self, layer: str, things: Things) -> Tuple[np.ndarray, ...]:
        """Where a layer's decisions about things are, in its record.

        Returns:
            Indices (n,) of picture, map and patch. All of the things must be
            located.
        """
        index = (
            np.zeros_like(things.level)
            if self.layers[layer].maps == 1 else things.level)
        return (things.picture, index,
                things.patch[layer][np.arange(len(things)), index])

    def weights(self, layer: str, things: Things) -> np.ndarray:
        """(n, E) expert weights of things, all of which must be located."""
        return self.layers[layer].weights[self.places(layer, things)]
