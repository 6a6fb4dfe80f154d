"""Merged convolutions against the mixture of all experts' outputs."""
import pytest
import torch
from torch import nn

from mmdet_moe.layers import MoELayer, dense_dispatch, merging
from mmdet_moe.layers.merging import merging_pays
from mmdet_moe.layers.plan import Plan


def run(layer, levels, dispatch):
    layer.zero_grad()
    layer.dispatch, before = dispatch, layer.dispatch
    levels = [x.clone().requires_grad_() for x in levels]
    outputs = layer(levels)
    sum(y.pow(2).sum() for y in outputs).backward()
    layer.dispatch = before
    return [*outputs, *(x.grad for x in levels), *(
        torch.zeros_like(p) if p.grad is None else p.grad
        for p in layer.parameters())]


@pytest.mark.parametrize('options', [
    dict(padding=1), dict(stride=2, bias=False), dict(groups=3, dilation=2),
    dict(padding='same')], ids=str)
@pytest.mark.parametrize('experts, top_k', [(2, 2), (4, 2), (5, 3)])
def test_equals_dense(monkeypatch, options, experts, top_k):
    monkeypatch.setitem(merging.POSITIONS, 'cpu', 0)
    layer = MoELayer(lambda: nn.Conv2d(6, 9, 3, **options), 6,
                     num_experts=experts, top_k=top_k)
    nn.init.normal_(layer.gate.weight, std=5)
    levels = [torch.randn(3, 6, 9, 8), torch.randn(3, 6, 6, 7)]
    calls = []
    for expert in layer.experts:
        expert.forward = calls.append  # would fail, and be seen
    merged = run(layer, levels, layer.dispatch)
    assert not calls
    for expert in layer.experts:
        del expert.forward
    for a, b in zip(merged, run(layer, levels, dense_dispatch)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def conv(**options):
    return nn.Conv2d(6, 6, 3, padding=1, **options)


def test_it_pays_where_the_maps_are_large(monkeypatch):
    monkeypatch.setitem(merging.POSITIONS, 'cpu', 50)
    two, one = (Plan(w) for w in ([[0.5, 0.5, 0], [0, 0.1, 0.9]],
                                  [[1, 0, 0], [0, 0, 1]]))

    def pays(plan, sizes, **options):
        maps = [torch.zeros(2, 6, s, s) for s in sizes]
        return merging_pays(maps, [plan] * len(maps),
                            [conv(**options) for _ in range(3)])

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
    lambda experts: experts[1].register_full_backward_hook(lambda *_: None),
])
def test_what_cannot_be_merged(change):
    experts = [conv() for _ in range(2)]
    pieces, plans = [torch.zeros(2, 6, 40, 40)], [Plan([[0.5, 0.5]] * 2)]
    assert merging_pays(pieces, plans, experts) == [True]
    change(experts)
    assert merging_pays(pieces, plans, experts) == [False]
