r"""How much the choice of an expert tells of an object, and the level alone.

Expert weights are read as probabilities: an object with weights w goes to
expert e with probability w_e. Mutual information is in bits, from the joint
distribution of expert and property over the objects, ``I(A; B) = H(A) + H(B) -
H(A, B)``; conditional on the level it is the mean over the levels.

An estimate of it is never negative and seldom 0, so each has a p-value:
decisions are dealt out anew (Phipson and Smyth 2010, ``(1 + b) / (1 + m)``).
What is dealt out are the decisions of a whole picture, because neither objects
that share a decision nor decisions about one picture are independent.
"""
from dataclasses import dataclass
from functools import cached_property
from typing import Optional

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import entropy


def mutual_information(joint: np.ndarray) -> np.ndarray:
    """Bits of I(A; B) for joint distributions (..., A, B); need not sum to 1.

    Where a distribution is all zero, 0.
    """
    bits = (_bits(joint.sum(axis=-1)) + _bits(joint.sum(axis=-2)) -
            _bits(joint.reshape(*joint.shape[:-2], -1)))
    return np.maximum(bits, 0)  # rounding


def _bits(p: np.ndarray) -> np.ndarray:
    """Entropy along the last axis, scaled to a sum of 1; 0 of nothing."""
    with np.errstate(invalid='ignore'):
        return np.nan_to_num(entropy(p, base=2, axis=-1))


def input_dependence(weights: np.ndarray,
                     counts: Optional[np.ndarray] = None,
                     *,
                     given_place: bool = False) -> np.ndarray:
    """Bits of H(mean w) - mean H(w): what the input decides about the expert.

    0 for a gate that says the same of everything, however balanced it is;
    log2 E at most.

    Args:
        weights: (I, ..., E) of I pictures, each with the same places: levels,
            and patches on them.
        counts: (R, I) how often each picture is in each of R resamples; once,
            with R = 1, if None.
        given_place: Compare what pictures have at the same place, and then
            take the mean over the places: 0 for a gate that knows only the
            level. Otherwise everything is compared with everything.

    Returns:
        (R,)
    """
    if counts is None:
        counts = np.ones((1, len(weights)))
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = np.tensordot(share, weights, axes=1)  # (R, ..., E)
    each = np.tensordot(share, _bits(weights), axes=1)  # (R, ...)
    places = tuple(range(1, each.ndim))
    if not given_place:
        mean = mean.mean(axis=places)
        return np.maximum(_bits(mean) - each.mean(axis=places), 0)
    return np.maximum(_bits(mean) - each, 0).mean(axis=places)


@dataclass(frozen=True)
class Dependence:
    """What the expert tells of a property of the objects.

    Attributes:
        bits: Mutual information.
        normalised: In units of the property's entropy (given the level, if it
            is conditional): 1 if the expert says all; None if there is
            nothing to say, as all objects are alike.
        chance: Mean of the bits where decisions are dealt out by chance.
        p_value: Probability of as many bits, or more, by chance.
    """
    bits: float
    normalised: Optional[float]
    chance: float
    p_value: float


class Assignment:
    """The n objects of I pictures and the decisions made about them.

    Args:
        decisions: (I, L, P, E) expert weights of each picture, on L maps, in
            P patches.
        picture, map, patch: (n,) int; the decision that an object is under.
        level: (n,) int; the pyramid level of an object. It is the map, but
            for a layer that has only one.
    """

    def __init__(self, decisions: np.ndarray, picture: np.ndarray,
                 map: np.ndarray, patch: np.ndarray,
                 level: np.ndarray) -> None:
        self.decisions = decisions
        self.picture, self.map, self.patch = picture, map, patch
        self.level = level

    def __len__(self) -> int:
        return len(self.picture)

    @cached_property
    def weights(self) -> np.ndarray:
        """(n, E)"""
        return self.decisions[self.picture, self.map, self.patch]

    @cached_property
    def weights_by_level_only(self) -> np.ndarray:
        """(n, E) as a table with a row per level would have them."""
        weights = np.empty_like(self.weights)
        for level in np.unique(self.level):
            here = self.level == level
            weights[here] = self.weights[here].mean(axis=0)
        return weights

    def dealt(self, rng: np.random.Generator, keep_level: bool) -> np.ndarray:
        """(n, E) with decisions dealt out by chance.

        Args:
            rng: Chance.
            keep_level: Pictures with objects exchange all their decisions,
                map by map and patch by patch: nothing that a table by level
                and place could do is changed. Otherwise the decisions of a
                picture change places between its maps as well.
        """
        pictures, index = np.unique(self.picture, return_inverse=True)
        other = rng.permutation(pictures)[index]
        if keep_level:
            return self.decisions[other, self.map, self.patch]
        maps = np.tile(np.arange(self.decisions.shape[1]), (len(pictures), 1))
        maps = rng.permuted(maps, axis=1)
        return self.decisions[other, maps[index, self.map], self.patch]


def expert_tells(assignment: Assignment,
                 group: np.ndarray,
                 groups: int,
                 rng: np.random.Generator,
                 *,
                 given_level: bool = False,
                 permutations: int = 999) -> Dependence:
    """I(expert; group), or I(expert; group | level), with its p-value.

    Args:
        assignment: Of n > 0 objects.
        group: (n,) int, the group of each object, such as its size.
        groups: How many groups there are.
        rng: Chance, for the permutations.
        given_level: Whether to ask beyond the level of an object.
        permutations: How often decisions are dealt out by chance.
    """
    level = assignment.level if given_level else np.zeros_like(group)
    levels = level.max() + 1
    number = len(group)
    membership = csr_matrix(
        (np.ones(number), (level * groups + group, np.arange(number))),
        shape=(levels * groups, number))
    size = np.bincount(level, minlength=levels) / number

    def bits(weights: np.ndarray) -> float:
        joint = (membership @ weights).reshape(levels, groups, -1)
        return float(size @ mutual_information(joint))

    observed = bits(assignment.weights)
    chance = np.array([
        bits(assignment.dealt(rng, given_level)) for _ in range(permutations)
    ])
    counts = np.asarray(membership.sum(axis=1)).reshape(levels, groups)
    most = float(size @ _bits(counts))
    # sums in another order: equal up to rounding
    reached = int((chance >= observed - 1e-9).sum())
    return Dependence(
        bits=observed,
        normalised=observed / most if most > 0 else None,
        chance=float(chance.mean()) if permutations else 0.0,
        p_value=(1 + reached) / (1 + permutations))


def level_tells(assignment: Assignment, group: np.ndarray,
                groups: int) -> dict:
    """What a table by level would reach: the baseline of the above.

    Returns:
        ``bits`` of I(expert; group) if every object had the mean weights of
        its level, and ``normalised`` by the group's entropy, or None.
    """
    weights = assignment.weights_by_level_only
    joint = np.zeros((groups, weights.shape[1]))
    np.add.at(joint, group, weights)
    bits = float(mutual_information(joint))
    most = float(_bits(np.bincount(group, minlength=groups).astype(float)))
    return dict(bits=bits, normalised=bits / most if most > 0 else None)
