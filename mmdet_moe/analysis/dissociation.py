"""Double dissociation: experts that do different things for different objects.

Without expert e one group of objects loses more than without expert f, and
another group less. Only one of the two would also be seen if one expert was
needed for everything and the other for nothing; both together show that the
experts can do different things. (A term of neuropsychology: Teuber 1955,
Physiological psychology, Annual Review of Psychology 6.)
"""
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Dict, List, Optional, Tuple

import numpy as np

from .resampling import interval

#: By group of objects, what it loses: of the pictures themselves, and then of
#: each resample, (1 + R,); NaN where there is no object.
Losses = Dict[str, np.ndarray]


@dataclass(frozen=True)
class Dissociation:
    """A double dissociation of two experts.

    Attributes:
        experts: e and f.
        groups: What loses more without e than without f, and the other way
            round.
        more: How much more, of the metric, with intervals: of the first group
            without e, of the second without f.
        lost: What these lose altogether. It need not be above 0: a group may
            gain without the other expert instead.
    """
    experts: Tuple[int, int]
    groups: Tuple[str, str]
    more: Tuple[dict, dict]
    lost: Tuple[dict, dict]


@dataclass(frozen=True)
class Dissociations:
    """The double dissociations among the experts of a layer.

    Attributes:
        found: The pairs, the clearest one first.
        by_chance: How many pairs are to be expected if all experts were needed
            for the same: with many groups there are many.
        p_value: Probability that chance alone makes a pair as clear as the
            clearest one.
    """
    found: List[Dissociation]
    by_chance: float
    p_value: float


def double_dissociations(losses: Dict[int, Losses]) -> Dissociations:
    """Pairs of experts that are doubly dissociated.

    Both intervals have to be above 0. They are paired: losses without the one
    and the other expert are of the same resamples. Of the groups that show it
    for a pair those are given for which the smaller of both is largest.

    What is to be expected by chance is what is found if each resample in turn
    takes the place of the pictures, less the mean of all resamples, so that
    there is no difference but the noise; the groups stay as alike as they are.
    A pair is as clear as the smaller of its two differences is large, in
    units of the half of its interval that points to 0: above 1 it is found.

    Args:
        losses: By expert, what is lost without it, or when others do its work.
    """
    found, clearest = [], 0.0
    pairs_by_chance, by_chance = np.zeros(1), np.zeros(1)
    for e, f in combinations(losses, 2):
        more, less = {}, {}
        scaled = []
        for group in losses[e]:
            difference = losses[e][group] - losses[f][group]
            more[group], less[group] = _more(difference), _more(-difference)
            scaled.append(_scaled(difference))
        clear = _clear(np.array([x for x in scaled if x is not None]))
        if len(clear):
            clearest = max(clearest, clear[0])
            pairs_by_chance = pairs_by_chance + (clear[1:] > 1)
            by_chance = np.maximum(by_chance, clear[1:])
        pairs = [(g, h) for g, h in permutations(losses[e], 2)
                 if more[g] is not None and less[h] is not None]
        if pairs:
            g, h = max(pairs, key=lambda p: min(more[p[0]]['interval']['low'],
                                                less[p[1]]['interval']['low']))
            found.append((clear[0], Dissociation(
                (e, f), (g, h), (more[g], less[h]),
                (_loss(losses[e][g]), _loss(losses[f][h])))))
    reached = int((by_chance >= clearest).sum())
    found = [one for _, one in sorted(found, key=lambda x: -x[0])]
    return Dissociations(found, float(pairs_by_chance.mean()),
                         (1 + reached) / (1 + len(by_chance)))


def _scaled(difference: np.ndarray) -> Optional[np.ndarray]:
    """(1 + R,) a difference, and that of each resample less their mean, in
    units of the distance from the mean to the end of the interval on the other
    side; None if there is no interval."""
    resamples = difference[1:]
    range_ = interval(resamples)
    if range_ is None or np.isnan(difference[0]):
        return None
    mean = np.nanmean(resamples)
    # Without any spread there is no noise, and any difference is clear.
    below, above = (max(x, 1e-12)
                    for x in (mean - range_['low'], range_['high'] - mean))
    x = np.nan_to_num(np.concatenate([difference[:1], resamples - mean]))
    return np.where(x > 0, x / below, x / above)


def _clear(scaled: np.ndarray) -> np.ndarray:
    """(groups, 1 + R) -> (1 + R,) how clearly one group is above 0 and another
    one below."""
    if not len(scaled):
        return np.zeros(0)
    return np.minimum(scaled.max(axis=0), (-scaled).max(axis=0))


def _loss(x: np.ndarray) -> dict:
    """Value and interval."""
    return dict(value=float(x[0]), interval=interval(x[1:]))


def _more(difference: np.ndarray) -> Optional[dict]:
    """Value and interval if that is above 0, else None."""
    range_ = interval(difference[1:])
    if range_ is None or np.isnan(difference[0]) or range_['low'] <= 0:
        return None
    return dict(value=float(difference[0]), interval=range_)
