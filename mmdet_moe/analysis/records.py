"""Records: what a run over the test pictures leaves behind, as arrays."""
from dataclasses import dataclass, field
from typing import Dict, List, Optional

import numpy as np

from .interventions import Intervention
from .layer_record import LayerRecord
from .metric import Metric


@dataclass(frozen=True)
class Picture:
    """A test picture: its id in the data set, file, size in pixels, and
    its domain, if it is known."""
    img_id: int
    path: str
    height: int
    width: int
    domain: Optional[str] = None


@dataclass(frozen=True)
class Things:
    """What decisions are about, n of them, with what is known about each.

    They are what is annotated or what is predicted: objects and detections,
    or pictures and their classes.

    Attributes:
        picture: (n,) index of the picture.
        box: (n, 4) as x1, y1, x2, y2 in pixels of the original picture; None
            of whole pictures.
        groups: By grouping, such as ``'class'``, (n,) the index of the group
            that each is in, -1 if it is in none.
        score: (n,) of what is predicted; 1 for what is annotated.
        true: (n,) whether a prediction is right, of a detection at IoU 0.5;
            True for what is annotated.
        under: By layer (n,) which row of its record each is under, -1 if
            none.
    """
    picture: np.ndarray
    box: Optional[np.ndarray]
    groups: Dict[str, np.ndarray]
    score: np.ndarray
    true: np.ndarray
    under: Dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.picture)

    def __getitem__(self, rows) -> 'Things':
        return Things(*(
            {name: column[rows] for name, column in value.items()}
            if isinstance(value, dict) else
            None if value is None else value[rows]
            for value in vars(self).values()))


@dataclass(frozen=True)
class Records:
    """Everything that the tables, figures and pictures are made of.

    Attributes:
        pictures: The I test pictures.
        groupings: What things are grouped by, in the order of the tables:
            ``'class'`` and others, with the names of the groups.
        layers: By the name of the MoE layer.
        labelled: What is annotated.
        predicted: What the model predicts.
        metric: Of what it predicts.
        interventions: The metric under each.
        levels_by: How objects got their levels: ``'assigner'``, by the rule
            of the training; ``'detection'``, as what matches them; None.
        left_out: By the name of a MoE layer of which nothing is known, why.
        features: By layer (labelled, C) the mean features of the samples that
            these are under; NaN where there are none.
        shown: Pictures of which all that was decided is kept.
        lines: JSON of each of what is annotated, with its expert weights.
        over: By layer (labelled, E) the expert weights of objects, the mean
            over the box rather than at its centre; NaN where there are none.
    """
    pictures: List[Picture]
    groupings: Dict[str, List[str]]
    layers: Dict[str, LayerRecord]
    labelled: Things
    predicted: Things
    metric: Metric
    interventions: Dict[Intervention, Metric]
    levels_by: Optional[str] = None
    left_out: Dict[str, str] = field(default_factory=dict)
    features: Dict[str, np.ndarray] = field(default_factory=dict)
    shown: List[int] = field(default_factory=list)
    over: Dict[str, np.ndarray] = field(default_factory=dict)
    lines: List[str] = field(default_factory=list)

    @property
    def classes(self) -> List[str]:
        """Names of the classes."""
        return self.groupings['class']

    @property
    def levels(self) -> int:
        """L of a detector; 0 if its objects cannot be given levels."""
        return len(self.groupings.get('level', ()))

    def described(self, things: Things, row: int) -> Dict[str, str]:
        """By grouping the name of the group that a thing is in, where it is
        in one."""
        return {
            by: self.groupings[by][group[row]]
            for by, group in things.groups.items() if group[row] >= 0
        }

    def located(self, layer: str, things: Things) -> np.ndarray:
        """(n,) bool: which things a layer has made a decision about."""
        return things.under[layer] >= 0

    def weights(self, layer: str, things: Things) -> np.ndarray:
        """(n, E) expert weights of things, all of which must be located."""
        return self.layers[layer].weights[things.under[layer]]
