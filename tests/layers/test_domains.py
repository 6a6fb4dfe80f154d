"""The loss that assigns experts to domains."""
import math

import pytest
import torch
from torch import nn

from mmdet_moe.layers import FeedForward, MoELayer, domains_are


def layer(experts, **options):
    made = MoELayer(
        lambda: nn.Conv2d(1, 1, 1), 1, num_experts=3, top_k=1,
        soft_constraint=dict(type='DatasetLoss', experts=experts, weight=0.5),
        **options)
    # softmax of the logits: 1/2, 1/3, 1/6
    made.gate.fc_weight.data.zero_()
    made.gate.fc_bias.data = torch.tensor([3.0, 2, 1]).log()
    return made


def test_by_hand():
    moe = layer(dict(sea=0, air=[1, 2]))
    with domains_are(['sea', 'air']):
        moe([torch.randn(2, 1, 4, 4), torch.randn(2, 1, 2, 2)])
    loss = moe.collect().losses['dataset']
    # each picture on two levels: 1/2 and 1/3 + 1/6
    assert loss.item() == pytest.approx(0.5 * math.log(2))
    loss.backward()
    assert moe.gate.fc_bias.grad.abs().sum() > 0


def test_positions_have_the_domain_of_their_picture():
    moe = MoELayer(
        lambda: FeedForward(1), 1, num_experts=2, top_k=1,
        scope=dict(type='PositionScope'),
        soft_constraint=dict(type='DatasetLoss', experts=dict(a=0, b=1)))
    moe.gate.fc_weight.data = torch.tensor([[9.0], [-9.0]])
    moe.gate.fc_bias.data.zero_()
    x = torch.ones(2, 1, 2, 3)
    x[1] = -1
    for names, right in ((['a', 'b'], True), (['b', 'a'], False)):
        with domains_are(names):
            moe(x)
        assert (moe.collect().losses['dataset'] < 1e-3) == right


def test_what_is_not_known():
    moe = layer(dict(sea=0))
    x = torch.randn(1, 1, 4, 4)
    with pytest.raises(RuntimeError, match='say them with domains_are'):
        moe(x)
    with domains_are(['sea', 'sea']), pytest.raises(
            RuntimeError, match='decides about 1 things.*2 pictures'):
        moe(x)
    with domains_are(['air']), pytest.raises(
            ValueError, match=r"experts=\['sea'\].*'air'"):
        moe(x)
    moe.eval()(x)  # in evaluation nobody asks
    for wrong in ([], 1.5, [0, 'b']):
        with pytest.raises(ValueError, match='experts.sea=.*allowed'):
            layer(dict(sea=wrong))
    with pytest.raises(ValueError, match='experts.sea=3'):
        layer(dict(sea=3))
