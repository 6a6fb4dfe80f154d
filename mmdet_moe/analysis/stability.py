"""Stability: whether two trainings end with the same kinds of experts.

Experts have no names, so those of one training are matched with those of the
other, by the Hungarian method, before they are compared.
"""
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

import numpy as np
from scipy.optimize import linear_sum_assignment

#: Groups with fewer objects are left out of a profile.
FEWEST = 5


@dataclass(frozen=True)
class Profile:
    """What each expert is used for.

    Attributes:
        groups: c groups of objects, such as of a class, a size and a level.
        counts: (c,) how many objects are in each.
        weights: (c, E) mean weight of each expert.
    """
    groups: List[str]
    counts: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Stability:
    """How alike the experts of a layer are in two trainings.

    Attributes:
        correlation: Mean over the matched experts of the correlation between
            their profiles, each group counted by its objects; without pairs
            of experts whose weights are constant.
        chance: What is to be expected if the groups of one of them are mixed
            up.
        p_value: Probability of as much, or more, by chance.
        matches: For each expert of the first the one of the second.
    """
    correlation: float
    chance: float
    p_value: float
    matches: Tuple[int, ...]


def profile(weights: np.ndarray, groups: Sequence[Tuple[np.ndarray, list]]
            ) -> Profile:
    """What each expert is used for, by all combinations of some groupings.

    Args:
        weights: (n, E) expert weights of n objects.
        groups: For each grouping (n,) the group of each object, -1 if it has
            none, and the names of the groups.
    """
    index = np.zeros(len(weights), int)
    known = np.ones(len(weights), bool)
    names = ['']
    for group, own in groups:
        index = index * len(own) + group
        known &= group >= 0
        names = [f'{a}, {b}' if a else b for a in names for b in own]
    counts = np.bincount(index[known], minlength=len(names))
    sums = np.zeros((len(names), weights.shape[1]))
    np.add.at(sums, index[known], weights[known])
    there = np.flatnonzero(counts >= FEWEST)
    return Profile([names[i] for i in there], counts[there],
                   sums[there] / counts[there, None])


def stability(one: Profile, other: Profile, *, rng: np.random.Generator,
              permutations: int = 999) -> Optional[Stability]:
    """Compare two profiles of layers with as many experts.

    The null is that the second profile has nothing to do with the first: its
    groups are mixed up, again and again, and the experts matched anew, so
    that what matching alone brings is part of the null.

    Returns:
        None if there are fewer than three groups that both have.
    """
    common = [g for g in one.groups if g in other.groups]
    if len(common) < 3:
        return None
    a, b = (p.weights[[p.groups.index(g) for g in common]]
            for p in (one, other))
    counts = one.counts[[one.groups.index(g) for g in common]].astype(float)
    observed, matches = _matched(a, b, counts)
    chance = np.array([
        _matched(a, b[rng.permutation(len(common))], counts)[0]
        for _ in range(permutations)
    ])
    reached = int((chance >= observed - 1e-9).sum())
    return Stability(observed, float(chance.mean()),
                     (1 + reached) / (1 + permutations), matches)


def _matched(a: np.ndarray, b: np.ndarray, counts: np.ndarray
             ) -> Tuple[float, Tuple[int, ...]]:
    """Mean correlation of matched experts, and the matches.

    Two experts with constant weights, such as two that are never used, have no
    correlation: they do not count, but where all are such, it is 0.
    """
    a, b = _standardised(a, counts), _standardised(b, counts)
    correlation = a.T @ b
    rows, columns = linear_sum_assignment(correlation, maximize=True)
    counted = a.any(axis=0)[rows] | b.any(axis=0)[columns]
    total = correlation[rows, columns].sum()
    return float(total / max(counted.sum(), 1)), tuple(columns.tolist())


def _standardised(weights: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Columns with a counted mean of 0 and a sum of squares of 1, so that
    inner products are correlations; a constant one becomes 0."""
    part = (counts / counts.sum())[:, None]
    centred = (weights - (part * weights).sum(axis=0)) * np.sqrt(part)
    norm = np.sqrt((centred**2).sum(axis=0))
    return np.divide(centred, norm, where=norm > 1e-9,
                     out=np.zeros_like(centred))
