import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from twins import decided

from mmdet_moe.layers import GATES, Gate, GateNoise, MoELayer, top_k_routing
from mmdet_moe.layers.fixed_gates import EqualGate, SingleExpertGate
from mmdet_moe.layers.gates import ConvGAPGate, GAPFCGate, TwoConvGAPGate


def logits(gate, x):
    return gate(gate.features(x))


LEARNED = (GAPFCGate, ConvGAPGate, TwoConvGAPGate)


def test_gap_fc_by_hand():
    gate = GAPFCGate(2, 3)
    gate.fc_weight.data = torch.tensor([[1.0, 0], [0, 1], [1, -1]])
    gate.fc_bias.data = torch.tensor([0.0, 0, 10])
    x = torch.zeros(1, 2, 2, 2)
    x[0, 0] = torch.tensor([[1.0, 2], [3, 6]])  # mean 3
    x[0, 1] = 5.0
    assert logits(gate, x).tolist() == [[3, 5, 8]]
    # rows are their own average
    assert logits(gate, x.mean(dim=(2, 3))).tolist() == [[3, 5, 8]]


@pytest.mark.parametrize('gate', [kind(8, 4) for kind in LEARNED])
def test_float32_under_autocast(gate):
    x = torch.randn(2, 8, 6, 6)
    layer = MoELayer(nn.Identity, 8)
    layer.gate = gate
    with torch.autocast('cpu', torch.bfloat16):
        inside = decided(layer, x).logits
    assert inside.dtype == torch.float32
    assert torch.equal(inside, decided(layer, x).logits)
    half = copy.deepcopy(gate).half()
    assert logits(half, x.half()).dtype == torch.float32


@pytest.mark.parametrize('gate', [kind(8, 4) for kind in LEARNED])
def test_every_parameter_is_trained(gate):
    logits(gate, torch.randn(3, 8, 5, 5)).pow(2).sum().backward()
    for name, p in gate.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_initialisers_of_layers_do_not_reach_gates():
    for gate in (*(kind(8, 4) for kind in LEARNED), GateNoise(8, 4)):
        assert not (hasattr(gate, 'weight') or hasattr(gate, 'bias'))
        assert not any(
            isinstance(m, (nn.Linear, nn.Conv2d)) for m in gate.modules())


def test_noise_starts_with_the_scale_of_the_paper():
    # W_noise = 0: standard deviation softplus(0) + 0.01 = 0.6931 + 0.01
    scale = GateNoise(4, 8)(torch.randn(50, 4))
    assert torch.allclose(scale, torch.tensor(0.7031), atol=1e-4)
    layer = MoELayer(lambda: nn.Conv2d(4, 4, 1), 4, num_experts=8, noise=True)
    noise = decided(layer, torch.randn(5000, 4, 1, 1)).noise
    assert noise.std().item() == pytest.approx(0.7031, rel=0.02)
    assert decided(layer.eval(), torch.randn(2, 4, 1, 1)).noise is None


def test_two_convolutions_then_pool():
    # The first passes its input on, the second sums a 3x3 neighbourhood: of
    # ones on 3x3 positions the centre sees 9, edges 6, corners 4: 49 / 9.
    gate = TwoConvGAPGate(1, 1)
    gate.conv_weight.data = torch.zeros(1, 1, 3, 3)
    gate.conv_weight.data[..., 1, 1] = 1
    gate.last_weight.data = torch.ones(1, 1, 3, 3)
    assert logits(gate, torch.ones(1, 1, 3, 3)).item() == pytest.approx(49 / 9)
    # ReLU between them
    assert logits(gate, -torch.ones(1, 1, 3, 3)).item() == 0


def test_static_gates():
    x = torch.randn(3, 8, 2, 2)
    equal = top_k_routing(logits(EqualGate(8, 4), x), top_k=4)
    assert torch.equal(equal.weights, torch.full((3, 4), 0.25))
    single = top_k_routing(
        logits(SingleExpertGate(8, 4, expert=2), x), top_k=2)
    assert single.weights.tolist() == [[0, 0, 1, 0]] * 3


def test_a_gate_of_ones_own():

    @GATES.register
    class MaxPoolGate(Gate):

        def __init__(self, in_channels, num_experts):
            super().__init__(in_channels, num_experts)
            self.fc = nn.Linear(in_channels, num_experts)

        def features(self, x):
            return x.float().amax(dim=(-2, -1))

        def logits(self, features):
            return self.fc(features)

    try:
        layer = MoELayer(
            lambda: nn.Conv2d(4, 4, 1), 4, gate=dict(type='MaxPoolGate'))
        layer(torch.randn(2, 4, 3, 3))[0].sum().backward()
        assert layer.gate.fc.weight.grad.abs().sum() > 0
        with pytest.raises(ValueError, match="class='MaxPoolGate'.*taken"):
            GATES.register(type('MaxPoolGate', (Gate, ), {}))
    finally:
        del GATES['MaxPoolGate']
    with pytest.raises(ValueError, match='a subclass of Gate'):
        GATES.register(nn.Linear)


@pytest.mark.parametrize('noise', [False, True])
def test_a_layer_calls_its_gate(noise):
    """Once for all levels: hooks on it are run, and what builds on them."""
    layer = MoELayer(nn.Identity, 8, noise=noise)
    prune.random_unstructured(layer.gate, 'fc_weight', 0.5)
    seen = []
    layer.gate.register_forward_hook(lambda gate, x, y: seen.append(y))
    for _ in range(2):
        layer([torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)])
        assert seen[-1].shape == (4, 4)
        seen[-1].sum().backward()
    assert len(seen) == 2
