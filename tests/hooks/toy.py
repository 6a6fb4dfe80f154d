"""A small model and a training run for the tests of the hooks."""
import itertools

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmdet_moe.layers import MoELayer

# Runs of the same name that begin in the same second share a log file.
RUNS = itertools.count()


class Pictures(Dataset):

    def __len__(self):
        return 8

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return dict(inputs=torch.randn(4, 6, 6, generator=generator))


class Tower(BaseModel):
    """Any model: one MoE layer that is called once per level."""

    def __init__(self, with_moe=True, **moe):
        super().__init__()
        self.tower = MoELayer(lambda: nn.Conv2d(4, 4, 1), 4, **
                              moe) if with_moe else nn.Conv2d(4, 4, 1)

    def forward(self, inputs, mode):
        y = self.tower(inputs).mean() + self.tower(inputs[..., :3]).mean()
        return dict(loss_task=y) if mode == 'loss' else y


def train(tmp_path, model, hooks=(dict(type='MoEHook'), ), accumulate=1,
          epochs=1, wrapper='OptimWrapper', lr=0.1, checkpoint=None,
          scheduler=None, **options):
    runner = Runner(
        model,
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=Pictures(),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(
            type=wrapper,
            optimizer=dict(type='SGD', lr=lr),
            accumulative_counts=accumulate),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            **{} if checkpoint is None else dict(checkpoint=checkpoint)),
        param_scheduler=scheduler,
        custom_hooks=list(hooks),
        randomness=dict(seed=0),
        experiment_name=f'hook_{next(RUNS)}',
        **options)
    runner.train()
    return runner
