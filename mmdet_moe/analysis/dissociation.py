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


def double_dissociations(losses: Dict[int, Losses]) -> List[Dissociation]:
    """Pairs of experts that are doubly dissociated.

    Both intervals have to be above 0. They are paired: losses without the one
    and the other expert are of the same resamples. Of the groups that show it
    for a pair those are given for which the smaller of both is largest.

    Args:
        losses: By expert, what is lost without it.
    """
    found = []
    for e, f in combinations(losses, 2):
        more = {
            group: _more(losses[e][group] - losses[f][group])
            for group in losses[e]
        }
        less = {
            group: _more(losses[f][group] - losses[e][group])
            for group in losses[e]
        }
        pairs = [(g, h) for g, h in permutations(losses[e], 2)
                 if more[g] is not None and less[h] is not None]
        if pairs:
            g, h = max(pairs, key=lambda p: min(more[p[0]]['interval']['low'],
                                                less[p[1]]['interval']['low']))
            found.append(Dissociation((e, f), (g, h), (more[g], less[h])))
    return found


def _more(difference: np.ndarray) -> Optional[dict]:
    """Value and interval if that is above 0, else None."""
    range_ = interval(difference[1:])
    if range_ is None or np.isnan(difference[0]) or range_['low'] <= 0:
        return None
    return dict(value=float(difference[0]), interval=range_)
