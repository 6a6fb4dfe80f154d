"""Two ranks with half of the samples each, against one process with all."""
import copy
import os

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmdet_moe.layers import MoELayer

OPTIONS = dict(
    per_step=dict(
        soft_constraint=[
            dict(type=f'{name}Loss', weight=1.0)
            for name in ('KL', 'Switch', 'Entropy', 'RouterZ', 'Variance')
        ],
        hard_constraint=dict(type='RelativeImportance', threshold=9.0)),
    per_call=dict(
        soft_constraint=dict(type='KLLoss', weight=1.0),
        balance_over='call',
        hard_constraint=dict(
            type='RelativeImportance', threshold=9.0, paper_per_call=True)))
SIDE = dict(per_step=9, per_call=3)  # convolutions are merged, and are not


def build(variant):
    torch.manual_seed(0)
    layer = MoELayer(lambda: nn.Conv2d(4, 4, 1), 4, **OPTIONS[variant])
    # Expert 3 is idle everywhere, and what a rank uses differs.
    layer.gate.fc_bias.data = torch.tensor([0.0, 0.0, 0.0, -99.0])
    layer.gate.fc_weight.data *= 9
    return layer, torch.randn(4, 4, SIDE[variant], SIDE[variant])


def train_step(layer, forward, x):
    """Gradients and constraint state after one step of loss and balance."""
    out = forward(x).relu_()  # in place, as in a ConvModule
    summary = layer.collect()
    (out.pow(2).mean() + sum(summary.losses.values())).backward()
    layer.step()
    return {
        **{
            n: torch.zeros_like(p) if p.grad is None else p.grad
            for n, p in layer.named_parameters()
        }, 'state': layer.hard_constraint.relative_importance,
        **{name: loss.detach() for name, loss in summary.losses.items()}
    }


def on_rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=2)
    for variant in OPTIONS:
        layer, x = build(variant)
        wrapped = DistributedDataParallel(layer)
        for _ in range(2):  # the second pass fails if a gradient was missing
            layer.zero_grad()
            result = train_step(layer, wrapped, x[2 * rank:2 * rank + 2])
            result = copy.deepcopy(result)
        torch.save(result, f'{folder}/{variant}{rank}.pth')
    dist.destroy_process_group()


def test_two_ranks_equal_one_process(tmp_path):
    port = 20000 + os.getpid() % 20000
    mp.spawn(on_rank, (port, str(tmp_path)), nprocs=2)
    for variant in OPTIONS:
        layer, x = build(variant)
        for _ in range(2):
            layer.zero_grad()
            expected = train_step(layer, layer, x)
        assert expected['state'].any()
        for rank in range(2):
            result = torch.load(tmp_path / f'{variant}{rank}.pth')
            for name, value in expected.items():
                assert torch.allclose(result[name], value, atol=1e-5), name
