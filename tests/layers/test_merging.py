"""Merged convolutions against the mixture of all experts' outputs."""
import pytest
import torch
from torch import nn
from twins import assert_same

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.merging import merging_pays
from mmdet_moe.layers.plan import make_plans


@pytest.mark.parametrize('options', [
    dict(padding=1), dict(stride=2, bias=False), dict(groups=3, dilation=2),
    dict(padding='same')], ids=str)
@pytest.mark.parametrize('experts, top_k', [(2, 2), (4, 2), (5, 3)])
def test_equals_dense(monkeypatch, options, experts, top_k):
    layer = MoELayer(lambda: nn.Conv2d(6, 9, 3, **options), 6,
                     num_experts=experts, top_k=top_k,
                     dispatch=dict(type='sparse', merge_above=dict(cpu=0)))
    nn.init.normal_(layer.gate.fc_weight, std=5)
    levels = [torch.randn(3, 6, 9, 8), torch.randn(3, 6, 6, 7)]
    assert_same(layer, levels, tolerance=1e-4)
    monkeypatch.setattr(nn.Conv2d, 'forward', None)  # no expert can be run
    layer(levels)


def conv(**options):
    return nn.Conv2d(6, 6, 3, padding=1, **options)


def test_it_pays_where_the_maps_are_large():
    two, one = make_plans([
        torch.tensor([[0.5, 0.5, 0], [0, 0.1, 0.9]]),
        torch.tensor([[1, 0, 0], [0, 0, 1]])
    ])

    def pays(plan, sizes, **options):
        maps = [torch.zeros(2, 6, s, s) for s in sizes]
        return merging_pays(maps, [plan] * len(maps),
                            [conv(**options) for _ in range(3)],
                            dict(cpu=50))

    # two of three experts save one convolution: 7 * 7 positions < 50 < 8 * 8
    assert pays(two, (7, 8)) == [False, True]
    # one expert each: nothing to save
    assert pays(one, (8, )) == [False]
    # a stride of 2 leaves a quarter of the positions
    assert pays(two, (14, 15), stride=2) == [False, True]


@pytest.mark.parametrize('change', [
    lambda experts: experts.__setitem__(1, nn.Sequential(conv())),
    lambda experts: experts.__setitem__(1, conv(bias=False)),
    lambda experts: experts.__setitem__(1, conv(padding_mode='reflect')),
    lambda experts: experts[1].register_forward_hook(lambda *_: None),
    lambda experts: setattr(experts[1], 'forward', lambda x: x),
    lambda experts: experts[1].register_full_backward_hook(lambda *_: None),
])
def test_what_cannot_be_merged(change):
    experts = [conv() for _ in range(2)]
    pieces = [torch.zeros(2, 6, 40, 40)]
    plans = make_plans([torch.full((2, 2), 0.5)])
    assert merging_pays(pieces, plans, experts) == [True]
    change(experts)
    assert merging_pays(pieces, plans, experts) == [False]
