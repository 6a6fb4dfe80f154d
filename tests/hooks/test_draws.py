"""What is random about a sample is a function of its draw."""
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mmdet_moe.hooks.draws import seed_draws, seeded


class Noise(Dataset):

    def __len__(self):
        return 6

    def __getitem__(self, i):
        assert type(i) is int
        return torch.tensor(
            [i, random.random(), np.random.rand(), torch.rand(()).item()])


def batches(workers, epochs=2):
    epoch = iter(range(epochs))
    loader = DataLoader(
        Noise(), batch_size=2, num_workers=workers,
        persistent_workers=workers > 0)
    seed_draws(loader, lambda: (7, next(epoch), 0))
    return torch.stack([torch.cat(list(loader)) for _ in range(epochs)])


def test_whoever_loads_it():
    random.seed(0)
    before = random.getstate(), torch.get_rng_state()
    first = batches(0)
    # the main process goes on as if nothing had been drawn
    assert random.getstate() == before[0]
    assert torch.equal(batches(2), first) and torch.equal(batches(1), first)
    # no two draws are alike, those of another epoch included
    drawn = first[..., 1:].flatten()
    assert len(drawn.unique()) == len(drawn)


def test_samplers_that_draw_when_they_begin():
    class Permuted(Sampler):

        def __init__(self):
            pass

        def __iter__(self):
            return iter(np.random.permutation(6))

    orders = []
    for seed in (0, 1):  # of the process: does not matter
        np.random.seed(seed)
        loader = DataLoader(Noise(), batch_size=2, sampler=Permuted())
        seed_draws(loader, lambda: (7, 0, 0))
        orders.append(torch.cat(list(loader)))
    assert torch.equal(*orders)


@pytest.mark.parametrize('index', [(1, 2), [1, 2], 3])
def test_indices_of_other_kinds(index):
    """As of videos and their frames; what cannot be seeded is let through."""

    class Videos(Dataset):

        def __len__(self):
            return 2

        def __getitem__(self, i):
            assert i == index and type(i) is type(index)
            return torch.rand(1)

    drawn = []
    for _ in range(2):
        loader = DataLoader(Videos(), sampler=[index] * 4, batch_size=2)
        seed_draws(loader, lambda: (7, 0, 0))
        drawn.append(torch.cat(list(loader)))
    assert torch.equal(*drawn) == (type(index) is not list)
    assert len(drawn[0].unique()) == 4


def test_seeded():
    with seeded((1, 2)):
        first = random.random(), np.random.rand(), torch.rand(3)
    with seeded((1, 2)):
        again = random.random(), np.random.rand(), torch.rand(3)
    assert first[:2] == again[:2] and torch.equal(first[2], again[2])
    with pytest.raises(ZeroDivisionError), seeded((1, 3)):
        assert random.random() != first[0]
        raise ZeroDivisionError
