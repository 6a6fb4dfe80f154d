"""What is random about the samples of a training that goes on."""
import itertools

import numpy as np
import pytest
import torch
from mmdet.datasets import AspectRatioBatchSampler
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset, Sampler

from mmdet_moe.hooks import SeedHook

RUNS = itertools.count()


class Noise(Dataset):
    """Other numbers at each draw, of wide and of high pictures."""

    def get_data_info(self, i):
        return dict(width=1 + i % 2, height=2 - i % 2)

    def __len__(self):
        return 12

    def __getitem__(self, i):
        return dict(inputs=torch.cat([torch.tensor([float(i)]), torch.rand(1)]))


class Drawing(Sampler):
    """Draws from a global generator, as GroupMultiSourceSampler does."""

    def __init__(self, dataset, seed=None):
        self.size = len(dataset)

    def __iter__(self):
        while True:
            yield int(np.random.choice(self.size))

    def __len__(self):
        return self.size


class Model(BaseModel):

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, inputs, mode):
        return dict(loss=self.fc(inputs).mean())


class Seen(Hook):

    def __init__(self):
        self.inputs = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.inputs.append(data_batch['inputs'])


def train(folder, steps, batch_sampler, sampler, workers, load_from=None):
    runner = Runner(
        Model(), work_dir=str(folder),
        train_dataloader=dict(
            dataset=Noise(), batch_size=2, num_workers=workers,
            sampler=dict(type=sampler), batch_sampler=batch_sampler,
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=False, max_iters=steps),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=dict(
            type='CheckpointHook', by_epoch=False, interval=1)),
        custom_hooks=[dict(type=SeedHook)], randomness=dict(seed=3),
        load_from=load_from, resume=load_from is not None,
        experiment_name=f'seed_{next(RUNS)}')
    seen = Seen()
    runner.register_hook(seen)
    runner.train()
    return torch.stack(seen.inputs)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('batch_sampler, sampler', [
    (None, InfiniteSampler),
    (dict(type=AspectRatioBatchSampler), InfiniteSampler),
    (None, 'DefaultSampler'),
    (None, Drawing)])
def test_draws_go_on(tmp_path, monkeypatch, batch_sampler, sampler, workers):
    monkeypatch.setattr('time.sleep', lambda seconds: None)  # MMEngine's
    how = batch_sampler, sampler
    whole = train(tmp_path / 'whole', 8, *how, workers)
    assert len(whole[..., 1].unique()) == 16
    train(tmp_path / 'cut', 4, *how, workers)
    # with another number of workers
    rest = train(tmp_path / 'cut', 8, *how, 2 - workers,
                 load_from=str(tmp_path / 'cut' / 'iter_4.pth'))
    assert torch.equal(rest, whole[4:])
