"""Records: what a run over the test pictures leaves behind, as arrays.

I pictures, N decisions of a layer about all of them, E experts.
"""
from dataclasses import dataclass, field
from functools import cached_property
from typing import Dict, List, Optional

import numpy as np

from mmdet_moe.layers import Decision
from mmdet_moe.sizes import size_of

from .average_precision import AveragePrecision
from .interventions import Intervention


@dataclass(frozen=True)
class Picture:
    """A test picture: its id in the annotation file, file, size in pixels, and
    its domain, if the file says one."""
    img_id: int
    path: str
    height: int
    width: int
    domain: Optional[str] = None


@dataclass(frozen=True)
class LayerRecord:
    """What a MoE layer decided, picture by picture.

    Attributes:
        decisions: About each of the I pictures.
        top_k: K, as trained.
    """
    decisions: List[Decision]
    top_k: int

    @cached_property
    def weights(self) -> np.ndarray:
        """(N, E) expert weights."""
        return self._joined(lambda d: d.weights).astype(float)

    @cached_property
    def logits(self) -> np.ndarray:
        """(N, E) gate logits."""
        return self._joined(lambda d: d.routing.logits)

    @cached_property
    def picture(self) -> np.ndarray:
        """(N,) index of the picture."""
        return np.arange(len(self.decisions)).repeat(
            [len(d.weights) for d in self.decisions])

    @cached_property
    def place(self) -> np.ndarray:
        """(N,) number of the place in the picture: level, patch, query."""
        return self._joined(lambda d: d.places())

    @property
    def experts(self) -> int:
        """E"""
        return self.weights.shape[1]

    @property
    def maps(self) -> int:
        """Maps of a picture that a decision is about, 0 if it is about
        regions or queries."""
        first = self.decisions[0]
        return 0 if first.about == 'items' or first.scope.rows else len(
            first.shapes)

    @property
    def patches(self) -> int:
        """Decisions about a map, at most."""
        return max((rows * columns for d in self.decisions if self.maps
                    for rows, columns in map(d.scope.divide, d.shapes)),
                   default=1)

    def _joined(self, values) -> np.ndarray:
        return np.concatenate([values(d).numpy() for d in self.decisions])


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
        under: By layer (n,) which of its N decisions each is under, -1 if
            none.
    """
    picture: np.ndarray
    box: np.ndarray
    label: np.ndarray
    area: np.ndarray
    level: np.ndarray
    score: np.ndarray
    true: np.ndarray
    under: Dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, rows) -> 'Things':
        return Things(
            *(getattr(self, name)[rows] for name in _COLUMNS),
            {name: under[rows] for name, under in self.under.items()})

    @property
    def size(self) -> np.ndarray:
        """(n,) index into COCO's small, medium, large."""
        return size_of(self.area)

    @staticmethod
    def cat(parts: List['Things'], layers: List[str]) -> 'Things':
        """Join things, in order; of some of their layers."""
        return Things(
            *(np.concatenate([getattr(p, name) for p in parts])
              for name in _COLUMNS), {
                  name: np.concatenate([p.under[name] for p in parts])
                  for name in layers
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
        levels_by: How objects got their levels: ``'assigner'``, by the rule
            of the training; ``'detection'``, as what matches them; None.
        left_out: By the name of a MoE layer of which nothing is known, why.
        over: By layer (objects, E) the expert weights of the objects, the mean
            over the box rather than at its centre; NaN where there are none.
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
    levels_by: Optional[str] = None
    left_out: Dict[str, str] = field(default_factory=dict)
    over: Dict[str, np.ndarray] = field(default_factory=dict)

    def located(self, layer: str, things: Things) -> np.ndarray:
        """(n,) bool: which things a layer has made a decision about."""
        return things.under[layer] >= 0

    def weights(self, layer: str, things: Things) -> np.ndarray:
        """(n, E) expert weights of things, all of which must be located."""
        return self.layers[layer].weights[things.under[layer]]
