"""The hooks on two ranks: the same loss and the same constraint on both."""
import logging
from types import SimpleNamespace

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from ranks import on_ranks
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


def on_rank(rank: int) -> tuple:
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
        kl.append(logs['loss_moe_kl.tower'].item())
        constraint = model.module.tower.hard_constraint
        states.append(constraint.relative_importance.clone())
    importance = [
        float(hub.get_scalar(f'train/moe.tower.importance_{e}').current())
        for e in range(4)
    ]
    statistics = torch.cat([
        norm.running_mean for norm in model.modules()
        if isinstance(norm, nn.BatchNorm2d)
    ])
    train_frozen(rank)
    return torch.stack(states), statistics, kl, importance


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
    first, second = on_ranks(on_rank, tmp_path)
    for a, b in zip(first[:2], second[:2]):
        assert torch.equal(a, b) and a.any()
    assert first[2:] == second[2:]
    # Two accumulated passes are one step of the constraint.
    states = first[0]
    assert not states[0].any() and states[1].any()
    assert torch.equal(states[1], states[2])
    assert not torch.equal(states[2], states[3])
