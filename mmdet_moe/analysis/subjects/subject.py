"""The interface: what decisions are about."""
from typing import (
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Protocol,
    Sequence,
    Tuple,
)

import numpy as np
import torch
from torch import Tensor

from mmdet_moe.analysis.metric import Metric, Words
from mmdet_moe.layers import Decision

#: Arrays by name, an entry for each thing.
Columns = Mapping[str, np.ndarray]
#: The group of each thing, of its columns.
GroupOf = Callable[[Columns], np.ndarray]


def unique(names: Iterable[str]) -> List[str]:
    """Two groups of the same name, such as ImageNet's two cranes, get their
    numbers, as tables are by name."""
    names = list(names)
    return [f'{name} ({i})' if names.count(name) > 1 else name
            for i, name in enumerate(names)]


class Rows(NamedTuple):
    """What things can be under, of a decision: N rows each.

    Attributes:
        weights: (N, E) expert weights.
        logits: (N, E) gate logits.
        features: (N, C) mean features; None if they were not kept.
    """
    weights: Tensor
    logits: Tensor
    features: Optional[Tensor]


class Located(Protocol):
    """Things of one picture, n of them, and where decisions about them are.

    Attributes:
        columns: What is known about each: ``label``, ``score`` and ``true``,
            as of :class:`.Things`, ``box`` if it has one, and what its groups
            are told by.
    """
    columns: Columns

    def __len__(self) -> int:
        """How many there are."""

    def under(self, decision: Decision) -> np.ndarray:
        """(n,) which of the :meth:`Subject.rows` each is under, or -1."""

    def over(self, decision: Decision) -> Optional[np.ndarray]:
        """(n, E) expert weights, the mean over what each covers; NaN where
        the layer decided nothing about it. None if the rows are that."""


class Subject:
    """What the decisions of a model are about, on a test set.

    Attributes:
        words: Of its metric.
        classes: Names of the classes, in the order of the labels.
        img_ids: Of the test pictures, in their order.
        source: What the test set is called.
        files: What the answers depend on.
        needs: The kind of data set, in words.
        score_thr: Below this score, by default, predictions do not count.

    Args:
        dataset: Of the test pictures.
    """
    words: Words
    classes: List[str]
    img_ids: Sequence
    source: str
    files: Sequence[str] = ()
    needs: str
    score_thr: float = 0.0

    @classmethod
    def fits(cls, dataset) -> bool:
        """Whether this class is about such a data set."""
        raise NotImplementedError

    def id_of(self, sample):
        """Which of the ``img_ids`` a data sample is."""
        raise NotImplementedError

    def prepare(self, sample, device: torch.device) -> None:
        """Give a data sample what the model needs to say who decided, before
        it is run.

        Args:
            sample: Of a picture.
            device: Where the model is.
        """

    def forget(self, sample) -> None:
        """Take that away: the model is run again, and need not say it."""

    def labelled(self, sample) -> Located:
        """What is annotated in the picture of a data sample."""
        raise NotImplementedError

    def predicted(self, sample) -> Tuple[Located, Columns]:
        """What the model has predicted about it; and what the metric needs of
        that, which is appended to that of the other pictures."""
        raise NotImplementedError

    def rows(self, decision: Decision) -> Rows:
        """What these can be under, of a decision about their picture."""
        return Rows(decision.weights, decision.routing.logits,
                    decision.features)

    def levels_by(self, sample) -> str:
        """How things got their levels, see :class:`.Records`."""
        return ''

    def lines(self, sample, things: Located,
              weights: Mapping[str, np.ndarray]) -> List[str]:
        """JSON of each thing in a picture.

        Args:
            sample: Of the picture.
            things: What is annotated in it.
            weights: By layer (n, E), NaN where it decided nothing about one.
        """
        raise NotImplementedError

    def metric(self, outcomes: Columns) -> Metric:
        """The metric of what all pictures have given.

        Args:
            outcomes: As :meth:`predicted` gives it. Asked for the arrays
                whenever the metric is computed, so a mapping that reads them
                from files needs no memory meanwhile.
        """
        raise NotImplementedError

    def domains(self) -> List[Optional[str]]:
        """(I,) the domain of each picture, None where it has none."""
        return [None] * len(self.img_ids)

    def groupings(self, levels: int
                  ) -> Dict[str, Tuple[List[str], GroupOf]]:
        """What things are grouped by, in the order of the tables: the names of
        the groups, and what tells the group of each thing.

        Args:
            levels: L, of the model; 0 if it has none.
        """
        raise NotImplementedError

    def image(self, index: int, path: str) -> np.ndarray:
        """A picture (height, width, RGB).

        Args:
            index: Which of the test pictures.
            path: Its file, as the data sample has it.
        """
        raise NotImplementedError

    def notes(self, records) -> List[str]:
        """What a reader has to know about the data before the tables.

        Args:
            records: Of a run.
        """
        return []
