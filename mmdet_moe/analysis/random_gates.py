"""What gates would choose that are drawn at random: have the experts to be
learned to tell what they tell?"""
from typing import Iterator

import numpy as np

#: p is at best 1 / (1 + NUMBER).
NUMBER = 99


class RandomGates:
    """Weights of n objects, by gates that see the same features as the gate.

    A gate is a linear map of the features with normal weights. Its logits are
    standardised over the objects, expert by expert, as a gate with a bias
    could, for otherwise it would send nearly all objects to the same few
    experts, and could not tell much. The expert that it ranks first gets the
    weight that the object's own first choice has, the second one that of the
    second, and so on, so that only the choice differs.

    Args:
        features: (n, C) of the samples that the objects are under.
        weights: (n, E) of the gate itself.
        seed: Of the draw.
    """

    def __init__(self, features: np.ndarray, weights: np.ndarray,
                 seed: int) -> None:
        self._features = features - features.mean(axis=0)
        self._ranked = -np.sort(-weights, axis=1)
        self._seed = seed

    def __iter__(self) -> Iterator[np.ndarray]:
        """(n, E) by each of the gates; the same ones each time."""
        rng = np.random.default_rng(self._seed)
        shape = self._features.shape[1], self._ranked.shape[1]
        for _ in range(NUMBER):
            logits = self._features @ rng.standard_normal(shape)
            spread = logits.std(axis=0)
            order = np.argsort(
                -logits / np.where(spread > 0, spread, 1), axis=1)
            weights = np.zeros_like(self._ranked)
            np.put_along_axis(weights, order, self._ranked, axis=1)
            yield weights
