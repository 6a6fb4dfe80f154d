import torch
from torch import nn

from mmdet_moe.layers import MoELayer, traced


def test_calls_are_kept_and_nothing_is_left_behind():
    net = nn.ModuleDict(
        dict(a=MoELayer(lambda: nn.Conv2d(2, 2, 1), 2),
             b=MoELayer(lambda: nn.Conv2d(2, 2, 1), 2)))
    with traced(net) as decisions:
        for size in (4, 2):
            net['a'](torch.randn(3, 2, size, size))
    assert [d.shapes for d in decisions['a']] == [((3, 4, 4), ),
                                                  ((3, 2, 2), )]
    assert not decisions['a'][0].weights.requires_grad
    assert decisions['b'] == []
    net['a'](torch.randn(3, 2, 2, 2))
    assert len(decisions['a']) == 2
