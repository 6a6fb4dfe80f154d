"""Metrics: how well a model does, on any multiset of the test pictures.

The tables, the verdict and the page do not know which metric there is. They
ask a :class:`Metric` for its values, and its :class:`Words` for what to call
them.
"""
from dataclasses import dataclass, field
from typing import Dict, Protocol

import numpy as np


@dataclass(frozen=True)
class Words:
    """What is said of a metric.

    Attributes:
        metric: Its name, which is that of its most important value.
        title: Of its table.
        note: What it is, in sentences.
        things: What is annotated, in the plural.
        thing: One of these, with its article.
        whole: Whether it is a whole picture.
        predictions: What is predicted about it, in the plural.
        correct: Which of these the tables of correct ones have, in a sentence,
            with ``{score_thr}``.
        by: The grouping of the things that matters most.
        measures: Of its values, what they mean.
        parts: Of its values, those that are about a part of the things only:
            by name, which part.
    """
    metric: str
    title: str
    note: str
    things: str
    thing: str
    predictions: str
    correct: str
    by: str
    whole: bool = False
    measures: Dict[str, str] = field(default_factory=dict)
    parts: Dict[str, str] = field(default_factory=dict)

    @property
    def all(self) -> str:
        """What the metric is about, when it is not a part."""
        return f'all {self.things}'

    def of_group(self, by: str, name: str) -> str:
        """The things of a group, such as those of a class."""
        return f'{self.things} of {by} {name}'


@dataclass(frozen=True)
class Values:
    """A metric of R multisets of the pictures, from 0 to 1; NaN where there
    is nothing that it could be about.

    Attributes:
        overall: By name (R,); the most important one first.
        by_group: By grouping, such as class, the most important one of each
            group, (groups, R).
    """
    overall: Dict[str, np.ndarray]
    by_group: Dict[str, np.ndarray]


class Metric(Protocol):
    """What a model reaches.

    Attributes:
        words: What to call it.
    """
    words: Words

    def values(self, counts: np.ndarray) -> Values:
        """The metric of multisets of the I pictures.

        Args:
            counts: (R, I) how often each picture is taken.
        """


def of_pictures(metric: Metric, pictures: int) -> Dict[str, float]:
    """The overall values of I pictures, each taken once."""
    overall = metric.values(np.ones((1, pictures), int)).overall
    return {name: float(x[0]) for name, x in overall.items()}
