import pytest
import torch
from torch import nn
from twins import decided

from mmdet_moe.layers import MoELayer, force, forced


def model():
    layers = [MoELayer(lambda: nn.Conv2d(4, 4, 1), 4, top_k=2)
              for _ in range(2)]
    for layer in layers:
        # logits 3, 2, 1, 0 for every sample
        layer.gate.fc_weight.data.zero_()
        layer.gate.fc_bias.data = torch.tensor([3.0, 2, 1, 0])
    return nn.ModuleDict(dict(a=layers[0], b=layers[1])).eval()


def weights(layer):
    return decided(layer, torch.randn(1, 4, 3, 3)).weights[0]


def softmax(*logits):
    return torch.tensor([float(x) for x in logits]).softmax(dim=0)


@pytest.mark.parametrize('options, expected', [
    (dict(), softmax(3, 2, -9e9, -9e9)),
    (dict(top_k=1), torch.tensor([1.0, 0, 0, 0])),
    (dict(top_k=4), softmax(3, 2, 1, 0)),
    (dict(expert=2), torch.tensor([0, 0, 1.0, 0])),
    (dict(drop=0), softmax(-9e9, 2, 1, -9e9)),
    # fewer are left than K
    (dict(drop=(0, 1, 2)), torch.tensor([0, 0, 0, 1.0])),
    (dict(drop=[1], top_k=3), softmax(3, -9e9, 1, 0)),
    # the weight of 0 goes to 3, or to 1, which has its own as well
    (dict(replace=(0, 3)), softmax(-9e9, 2, -9e9, 3)),
    (dict(replace=(0, 1)), torch.tensor([0, 1.0, 0, 0])),
    (dict(replace=(2, 0)), softmax(3, 2, -9e9, -9e9)),
])
def test_what_is_left_is_weighted_anew(options, expected):
    net = model()
    force(net, **options)
    for layer in net.values():
        assert torch.allclose(weights(layer), expected)


def test_experts_are_drawn_and_the_gate_weighs():
    net = model()
    layer = net['a']
    x = torch.randn(400, 4, 3, 3)
    own = decided(layer, x).weights
    drawn = []
    for seed in (0, 0, 1):
        with forced(net, random_routing=seed):
            routing = decided(layer, x)
            again = decided(layer, x)  # another call is another draw
        assert not torch.equal(again.experts, routing.experts)
        # the gate's own weights, of its first and second choice
        assert torch.equal(routing.weights.sort(dim=1)[0], own.sort(dim=1)[0])
        assert torch.equal(routing.weights.argmax(dim=1),
                           routing.experts[:, 0])
        drawn.append(routing.experts)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    # each of four is the first of about 100
    assert ((drawn[0][:, 0].bincount() - 100).abs() < 40).all()
    with pytest.raises(ValueError, match='random_routing=0.*used alone'):
        force(net, random_routing=0, top_k=1)


@pytest.mark.parametrize('replace', [(0, ), (0, 0), (0, 4), 1])
def test_what_cannot_be_replaced(replace):
    with pytest.raises(ValueError, match='replace='):
        force(model(), replace=replace)


def test_a_forced_expert_is_that_expert():
    net = model()
    x = torch.randn(2, 4, 3, 3)
    for e in range(4):
        with forced(net, expert=e):
            assert torch.equal(net['a'](x), net['a'].experts[e](x))


def test_named_layers_only_and_back_again():
    net = model()
    free = weights(net['a'])
    with forced(net, layers='a', expert=3):
        assert weights(net['a']).tolist() == [0, 0, 0, 1]
        assert torch.equal(weights(net['b']), free)
        with forced(net, layers=['a', 'b'], top_k=1):
            assert weights(net['a']).tolist() == [1, 0, 0, 0]
        assert weights(net['a']).tolist() == [0, 0, 0, 1]
    assert torch.equal(weights(net['a']), free)
    force(net, expert=3)
    force(net)
    assert torch.equal(weights(net['a']), free)


def test_training_is_not_forced():
    net = model()
    force(net, expert=3)
    assert weights(net['a'].train())[0] > 0.5


@pytest.mark.parametrize('options, message', [
    (dict(expert=4), 'a: expert=4: .* from 0 to 3'),
    (dict(top_k=0), 'top_k=0'),
    (dict(top_k=4, drop=[0]), 'top_k=4: .* from 1 to 3'),
    (dict(drop=[0, 1, 2, 3]), 'drop=.*fewer than all 4'),
    (dict(drop=[7]), 'drop=7'),
    (dict(drop=None), 'drop=None'),
    (dict(layers=3), 'layers=3'),
    (dict(expert=1, top_k=2), 'expert=1: .*without top_k and drop'),
    (dict(layers='bbox_head.*', expert=1),
     r"layers='bbox_head.\*': .*there are a, b"),
])
def test_bad_options_change_nothing(options, message):
    net = model()
    with pytest.raises(ValueError, match=message):
        force(net, **options)
    assert all(layer.forcing is None for layer in net.values())
