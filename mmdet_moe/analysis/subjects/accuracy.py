"""Accuracy that can be resampled over pictures."""
from typing import Dict, Mapping, Optional, Sequence, Tuple

import numpy as np

from mmdet_moe.analysis.metric import Values, Words

#: Beyond so many classes the five best predictions are counted, too.
BEST = 5


def words(by: str) -> Words:
    """What is said of it, where ``by`` is the grouping that matters most."""
    return Words(
        metric='accuracy',
        title='Accuracy',
        note='Part of the pictures whose class is the most probable one, in '
        f'per cent; top-{BEST}: whose class is among the {BEST} most probable '
        'ones. The accuracy of a class is that of its pictures (recall): where '
        'pictures of one class are taken for another one, it may rise for the '
        'one as it falls for the other.',
        things='pictures',
        thing='a picture',
        whole=True,
        predictions='predictions',
        correct='Pictures whose class was predicted, with a score of at least '
        '{score_thr}.',
        measures={'Accuracy': 'Part of the pictures that are classified '
                  'correctly.'},
        by=by)


def read_test(content: dict) -> Dict[str, Optional[float]]:
    """What MMPretrain's Accuracy has written for a test."""
    return {
        name: content[key] / 100
        for name, key in (('accuracy', 'accuracy/top1'),
                          (f'top-{BEST}', f'accuracy/top{BEST}'))
        if key in content
    }


class Accuracy:
    """Accuracy of the predictions for I pictures.

    Args:
        groups: By grouping, the one that matters most first and with
            ``'class'`` among them, the names of the groups and which one each
            class is in.
        outcomes: Of I pictures, in any order, ``picture``, ``label`` and
            ``rank``, how many classes were more probable than the right one.
    """

    def __init__(self, groups: Mapping[str, Tuple[Sequence[str], np.ndarray]],
                 outcomes: Mapping[str, np.ndarray]) -> None:
        self._groups, self._outcomes = groups, outcomes
        self.words = words(next(iter(groups)))

    def values(self, counts: np.ndarray) -> Values:
        """Accuracy of multisets of the pictures, see :class:`.Metric`."""
        order = np.argsort(self._outcomes['picture'])
        label, rank = (self._outcomes[k][order] for k in ('label', 'rank'))
        counts = counts.astype(float)  # whole numbers are multiplied slowly
        total = counts.sum(axis=1)
        overall: Dict[str, np.ndarray] = {
            'accuracy': counts @ (rank < 1) / total}
        if len(self._groups['class'][0]) > BEST:
            overall[f'top-{BEST}'] = counts @ (rank < BEST) / total

        def of_groups(names: Sequence[str], group: np.ndarray) -> np.ndarray:
            """(groups, R), NaN where there is no picture of a group."""
            member = np.eye(len(names))[group[label]]
            right, there = (counts * (rank < 1)) @ member, counts @ member
            return np.divide(right, there, where=there > 0,
                             out=np.full(right.shape, np.nan)).T

        return Values(overall, {
            by: of_groups(*groups) for by, groups in self._groups.items()})
