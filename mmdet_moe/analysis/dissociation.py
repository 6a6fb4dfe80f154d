"""Double dissociation: experts that are needed for different objects.

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
    """Of two experts.

    Attributes:
        experts: e and f.
        groups: What loses more without e than without f, and the other way
            round.
        more: How much more, in AP, with intervals: of the first group without
            e, of the second without f.
    """
    experts: Tuple[int, int]
    groups: Tuple[str, str]
    more: Tuple[dict, dict]


@dataclass(frozen=True)
class Dissociations:
    """Of the experts of a layer.

    Attributes:
        found: The pairs.
        by_chance: How many pairs are to be expected if all experts were needed
            for the same: with many groups there are many.
        p_value: Probability of as many, or more, by chance.
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

    Args:
        losses: By expert, what is lost without it, or when others do its work.
    """
    found, chance = [], np.zeros(1)
    for e, f in combinations(losses, 2):
        more, less = {}, {}
        first, second = [], []
        for group in losses[e]:
            difference = losses[e][group] - losses[f][group]
            more[group], less[group] = _more(difference), _more(-difference)
            noise = _noise(difference[1:])
            if noise is not None:
                first.append(noise[0])
                second.append(noise[1])
        if first:
            chance = chance + _apart(np.array(first), np.array(second))
        pairs = [(g, h) for g, h in permutations(losses[e], 2)
                 if more[g] is not None and less[h] is not None]
        if pairs:
            g, h = max(pairs, key=lambda p: min(more[p[0]]['interval']['low'],
                                                less[p[1]]['interval']['low']))
            found.append(Dissociation((e, f), (g, h), (more[g], less[h])))
    reached = int((chance >= len(found)).sum())
    return Dissociations(found, float(chance.mean()),
                         (1 + reached) / (1 + len(chance)))


def _noise(resamples: np.ndarray) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """(R,) for each resample, whether it alone would be called above 0, and
    below 0, if there was no difference."""
    range_ = interval(resamples)
    if range_ is None:
        return None
    mean = np.nanmean(resamples)
    return (resamples - mean > mean - range_['low'],
            resamples - mean < mean - range_['high'])


def _apart(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """(groups, R) -> (R,) whether one group is above 0, and another below."""
    return above.any(axis=0) & below.any(axis=0)


def _more(difference: np.ndarray) -> Optional[dict]:
    """Value and interval if that is above 0, else None."""
    range_ = interval(difference[1:])
    if range_ is None or np.isnan(difference[0]) or range_['low'] <= 0:
        return None
    return dict(value=float(difference[0]), interval=range_)
