r"""How much the choice of an expert tells of an object, and the level alone.

Expert weights are read as probabilities: an object with weights w goes to
expert e with probability w_e. Mutual information is in bits, from the joint
distribution of expert and property over the objects, ``I(A; B) = H(A) + H(B) -
H(A, B)``; conditional on the level it is the mean over the levels.

An estimate of it is never negative and seldom 0, so each has a p-value, from a
permutation test with whole-block sign flips (Winkler et al. 2014, Permutation
inference for the general linear model, NeuroImage 92). The blocks are the
pictures: neither objects that share a decision nor decisions about one picture
are independent, and pictures have as many objects as they like.
"""
from dataclasses import dataclass
from typing import Iterable, Optional

import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import entropy

from mmdet_moe.layers import split_usage


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


def input_dependence(sums: np.ndarray,
                     counts: Optional[np.ndarray] = None,
                     *,
                     given_place: bool = False) -> np.ndarray:
    """Bits of H(mean w) - mean H(w): what the input decides about the expert.

    0 for a gate that says the same of everything, however balanced it is;
    log2 E at most.

    Args:
        sums: (I, P, 2 + 2E) what the decisions about each of I pictures add
            up to, at each of P places: levels or queries.
        counts: (R, I) how often each picture is in each of R resamples; once,
            with R = 1, if None.
        given_place: Only what is decided at the same place is compared, and
            the mean is taken over the decisions: 0 for a gate that knows only
            the level. Otherwise everything is compared with everything.

    Returns:
        (R,)
    """
    counts = np.ones((1, len(sums))) if counts is None else counts
    drawn = np.tensordot(counts, sums, axes=1)
    if not given_place:
        drawn = drawn.sum(axis=1, keepdims=True)
    number, each, total, _ = split_usage(drawn)
    most = (number * _bits(total)).sum(axis=1)
    return np.maximum(most - each.sum(axis=1), 0) / np.maximum(
        number.sum(axis=1), 1)


@dataclass(frozen=True)
class Dependence:
    """What the expert tells of a property of the objects.

    Attributes:
        bits: Mutual information.
        normalised: In units of the property's entropy (given the level, if it
            is conditional): 1 if the expert says all; None if there is
            nothing to say, as all objects are alike.
        nmi: Normalised by the mean of the entropies of expert and property,
            as scikit-learn's ``normalized_mutual_info_score``: symmetric, and
            1 only if the property says the expert, too. None if both are 0.
        leading_nmi: The same if each object went to its leading expert alone.
        chance: Bits to expect if the expert told nothing.
        p_value: Probability of as much, or more, if it told nothing.
        random_bits: Mean of what gates tell that are drawn at random; None
            without any.
        random_p_value: Probability of as much, or more, by such a gate.
    """
    bits: float
    normalised: Optional[float]
    nmi: Optional[float]
    leading_nmi: Optional[float]
    chance: float
    p_value: float
    random_bits: Optional[float] = None
    random_p_value: Optional[float] = None


def expert_tells(weights: np.ndarray,
                 group: np.ndarray,
                 *,
                 groups: int,
                 picture: np.ndarray,
                 rng: np.random.Generator,
                 level: Optional[np.ndarray] = None,
                 permutations: int = 999,
                 at_random: Iterable[np.ndarray] = ()) -> Dependence:
    r"""I(expert; group), or I(expert; group | level), with its p-value.

    An object with weights w in group g has the score
    :math:`(w - \bar w)(1_g - \bar 1_g)^T`, with means over the objects, or
    over those of its level. If the expert told nothing, the sum of the scores
    of a picture would have mean 0, whatever the objects of the picture have in
    common. So the pictures get random signs, and the sum of all scores, as a
    sum of squares scaled to be the second-order approximation of the mutual
    information, is compared with that for all signs +1.

    Args:
        weights: (n, E) expert weights of n > 0 objects.
        group: (n,) int, the group of each, such as its size.
        groups: How many groups there are.
        picture: (n,) int, the picture that it is in.
        rng: Generator of the random signs.
        level: (n,) int, if to ask beyond the level of an object.
        permutations: How often signs are drawn, at least once; p is
            ``(1 + as much or more) / (1 + permutations)`` (Phipson and Smyth
            2010).
        at_random: By each of some random gates the weights that the objects
            would have, (n, E), see :class:`.RandomGates`. Features are sorted
            by class before a gate has learned anything, so any function of
            them tells something.
    """
    level = np.zeros_like(group) if level is None else level
    levels = int(level.max()) + 1
    by_level = _sums(level, levels)
    by_both = _sums(level * groups + group, levels * groups)
    number = np.bincount(level, minlength=levels)[:, None]
    ones = np.ones((len(group), 1))
    at_level = np.maximum(number, 1)  # none at a level: no score either
    mean = (by_level @ weights) / at_level  # (levels, E)
    part = (by_both @ ones).reshape(levels, groups) / at_level
    centred = weights - mean[level]
    # Variance of a score if expert and group are independent, in objects:
    # where less than one is expected the approximation would be far too large,
    # as one object of a rare group with a rare expert would count as many.
    variance = (at_level * part)[..., None] * mean[:, None]
    scale = 1 / np.maximum(variance, 1)

    def statistic(signs: np.ndarray) -> float:
        signed = centred * signs[:, None]
        scores = (by_both @ signed).reshape(levels, groups, -1)
        scores = scores - part[..., None] * (by_level @ signed)[:, None]
        return float((scores**2 * scale).sum() / (2 * np.log(2) * len(group)))

    observed = statistic(ones[:, 0])
    pictures = int(picture.max()) + 1
    chance = np.array([
        statistic(rng.choice((-1.0, 1.0), pictures)[picture])
        for _ in range(permutations)
    ])
    # sums in another order: equal up to rounding
    reached = int((chance >= observed - 1e-9).sum())
    size = number[:, 0] / len(group)

    def told(w: np.ndarray) -> float:
        joint = (by_both @ w).reshape(levels, groups, -1)
        return float(size @ mutual_information(joint))

    def nmi(w: np.ndarray, bits: float) -> Optional[float]:
        own = float(size @ _bits((by_level @ w) / at_level))
        return 2 * bits / (most + own) if most + own > 0 else None

    bits, most = told(weights), float(size @ _bits(part))
    leading = np.eye(weights.shape[1])[weights.argmax(axis=1)]
    drawn = np.array([told(w) for w in at_random])
    return Dependence(
        bits=bits,
        normalised=bits / most if most > 0 else None,
        nmi=nmi(weights, bits),
        leading_nmi=nmi(leading, told(leading)),
        chance=float(chance.mean()),
        p_value=(1 + reached) / (1 + permutations),
        **dict(
            random_bits=float(drawn.mean()),
            random_p_value=(1 + int((drawn >= bits - 1e-9).sum())) /
            (1 + len(drawn))) if len(drawn) else {})


def level_tells(weights: np.ndarray, group: np.ndarray, *, groups: int,
                level: np.ndarray) -> dict:
    """What a table by level would reach: the baseline of the above.

    Args:
        weights, group, groups: As above.
        level: (n,) int, the level of each object.

    Returns:
        ``bits`` of I(expert; group) if every object had the mean weights of
        its level, and ``normalised`` by the group's entropy, or None.
    """
    levels = int(level.max()) + 1
    number = np.maximum(np.bincount(level, minlength=levels), 1)[:, None]
    table = (_sums(level, levels) @ weights) / number
    joint = _sums(group, groups) @ table[level]
    bits = float(mutual_information(joint))
    most = float(_bits(np.bincount(group, minlength=groups).astype(float)))
    return dict(bits=bits, normalised=bits / most if most > 0 else None)


def _sums(index: np.ndarray, number: int) -> csr_matrix:
    """(number, n): sums the rows of a matrix (n, ...) by their index (n,)."""
    n = len(index)
    return csr_matrix((np.ones(n), (index, np.arange(n))), shape=(number, n))
