"""The hooks on two ranks: the same loss and the same constraint on both."""
import logging
import os
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn

from mmdet_moe.hooks import FreezeHook, MoEHook
from mmdet_moe.layers import MoELayer


class Tower(BaseModel):

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 1)
        self.tower = MoELayer(
            lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)),
            4,
            soft_constraint=dict(type='KLLoss'),
            hard_constraint=dict(type='RelativeImportance'))

    def forward(self, inputs, mode):
        return dict(loss_task=self.tower(self.stem(inputs)).pow(2).mean())


def on_rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = MMDistributedDataParallel(Tower(), device_ids=None)
    optimizer = OptimWrapper(
        torch.optim.SGD(model.parameters(), lr=0.1), accumulative_counts=2)
    optimizer.initialize_count_status(model, 0, 4)
    hub = MessageHub.get_instance(f'rank{rank}')
    runner = SimpleNamespace(
        model=model, optim_wrapper=optimizer, message_hub=hub)
    hook = MoEHook()
    hook.before_train(runner)
    states, kl = [], []
    torch.manual_seed(rank)  # other pictures on the other rank
    for i in range(4):
        logs = model.train_step(
            dict(inputs=torch.randn(2, 4, 3, 3)), optimizer)
        hook.after_train_iter(runner, i)
        kl.append(logs['loss_moe_kl/tower'].item())
        constraint = model.module.tower.hard_constraint
        states.append(constraint.relative_importance.clone())
    importance = [
        float(hub.get_scalar(f'train/moe/tower/importance_{e}').current())
        for e in range(4)
    ]
    statistics = torch.cat([
        norm.running_mean for norm in model.modules()
        if isinstance(norm, nn.BatchNorm2d)
    ])
    torch.save((torch.stack(states), statistics, kl, importance),
               f'{folder}/{rank}.pth')
    train_frozen(rank)
    dist.destroy_process_group()


def wrap(cfg, model):
    return MMDistributedDataParallel(model, device_ids=None)


def train_frozen(rank: int) -> None:
    """A step that waits for the gradient of a frozen parameter fails."""
    model = wrap(None, Tower())
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    runner = SimpleNamespace(
        model=model, wrap_model=wrap, cfg={}, optim_wrapper=optimizer,
        logger=logging.getLogger())
    for hook in (FreezeHook(), MoEHook()):
        hook.before_train(runner)
    before = runner.model.module.stem.weight.clone()
    for _ in range(2):
        runner.model.train_step(dict(inputs=torch.randn(2, 4, 3, 3)), optimizer)
    assert torch.equal(before, runner.model.module.stem.weight)


def test_two_ranks_agree(tmp_path):
    port = 20000 + (os.getpid() + 7) % 20000
    mp.spawn(on_rank, (port, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f'{r}.pth') for r in range(2))
    for a, b in zip(first[:2], second[:2]):
        assert torch.equal(a, b) and a.any()
    assert first[2:] == second[2:]
    # Two accumulated passes are one step of the constraint.
    states = first[0]
    assert not states[0].any() and states[1].any()
    assert torch.equal(states[1], states[2])
    assert not torch.equal(states[2], states[3])
