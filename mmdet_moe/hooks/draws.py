"""Random numbers of the training data, whoever loads it.

MMEngine seeds each worker of a data loader once. What is random about a sample
then depends on the number of workers, on what they have loaded before, and on
whether the training was resumed meanwhile. Here each draw of a sample has a
seed of its own, made of the run's seed and of the number of the draw.
"""
import random
from contextlib import contextmanager
from numbers import Integral
from typing import Any, Callable, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from mmengine.dist import get_rank
from torch.utils.data import DataLoader, Sampler

#: Integers that a seed is made of.
Entropy = Tuple[int, ...]


class _Drawn:
    """An index of a data set, with what the seed of its draw is made of."""

    entropy: Entropy

    def __new__(cls, index: Any, entropy: Entropy) -> '_Drawn':
        draw = super().__new__(cls, index)
        draw.entropy = entropy
        return draw

    def __reduce__(self) -> tuple:
        return type(self), (_INDICES[type(self)](self), self.entropy)


class Draw(_Drawn, int):
    """An index that is a number."""


class DrawnTuple(_Drawn, tuple):
    """An index of several numbers, such as a video and a frame."""


#: By the class of an index, that of its draw, and back.
_DRAWS = {int: Draw, tuple: DrawnTuple}
_INDICES = {draw: index for index, draw in _DRAWS.items()}


class DrawSampler(Sampler):
    """The indices of another sampler as :class:`Draw`, or :class:`DrawnTuple`.
    Those that are neither a number nor a plain tuple have no seed.

    The sampler too takes each index from a seed of its own, for those that
    draw from the generators of Python, NumPy or torch. All ranks have that
    one in common.

    Args:
        sampler: The other one, of which this has all other attributes.
        start: What the seeds are made of where an iteration begins; its last
            number is that of the first draw.
    """

    def __init__(self, sampler: Sampler, start: Callable[[], Entropy]) -> None:
        self.sampler = sampler
        self.start = start
        self.rank = get_rank()

    def __iter__(self) -> Iterator[Draw]:
        *run, number = self.start()
        indices = None
        while True:
            entropy = (*run, number)
            with seeded((*entropy, 0)):
                # Some draw all when they begin.
                indices = iter(self.sampler) if indices is None else indices
                index = next(indices, None)
            if index is None:
                return
            if isinstance(index, Integral):  # also NumPy's
                index = int(index)
            draw = _DRAWS.get(type(index))
            yield index if draw is None else draw(
                index, (*entropy, 1 + self.rank))
            number += 1

    def __len__(self) -> int:
        return len(self.sampler)

    def __getattr__(self, name: str) -> Any:
        if name == 'sampler':  # not there yet, while it is copied
            raise AttributeError(name)
        return getattr(self.sampler, name)


class DrawnItems:
    """What a data loader asks a data set for, if it has ``__getitems__``: the
    items of a batch. Each is loaded with the seed of its draw."""

    def __init__(self, dataset: Sequence) -> None:
        self.dataset = dataset

    def __call__(self, draws: Sequence[Draw]) -> List:
        items = []
        for draw in draws:
            index = _INDICES.get(type(draw))
            if index is None:
                items.append(self.dataset[draw])
                continue
            with seeded(draw.entropy):
                items.append(self.dataset[index(draw)])
        return items


def seed_draws(loader: DataLoader, start: Callable[[], Entropy]) -> None:
    """Have each draw of a data loader seeded, from its next iteration on.

    Args:
        loader: With batches, and not iterated yet.
        start: See :class:`DrawSampler`.
    """
    loader.batch_sampler.sampler = DrawSampler(
        loader.batch_sampler.sampler, start)
    loader.dataset.__getitems__ = DrawnItems(loader.dataset)


@contextmanager
def seeded(entropy: Entropy) -> Iterator[None]:
    """Random numbers of Python, NumPy and torch (CPU) are those of a seed
    inside of the block, and go on afterwards as if nothing had happened."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    # Of torch the CPU alone, which is much faster.
    torch.default_generator.manual_seed(_seed_python(entropy))
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def seed_all(entropy: Entropy) -> None:
    """Seed Python, NumPy and torch, all devices.

    Args:
        entropy: Non-negative integers. Other ones make independent numbers
            (``numpy.random.SeedSequence``).
    """
    torch.manual_seed(_seed_python(entropy))


def _seed_python(entropy: Entropy) -> int:
    """Seed Python and NumPy; a seed for torch."""
    words = np.random.SeedSequence(entropy).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1:2])
    return int(words[2]) << 32 | int(words[3])
