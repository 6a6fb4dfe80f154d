import copy

import pytest
import torch
from torch import nn

from mmdet_moe.layers import ConvGAPGate, GAPFCGate, GateNoise


def test_gap_fc_by_hand():
    gate = GAPFCGate(2, 3)
    gate.weight.data = torch.tensor([[1.0, 0], [0, 1], [1, -1]])
    gate.bias.data = torch.tensor([0.0, 0, 10])
    x = torch.zeros(1, 2, 2, 2)
    x[0, 0] = torch.tensor([[1.0, 2], [3, 6]])  # mean 3
    x[0, 1] = 5.0
    assert gate(x).tolist() == [[3, 5, 8]]


@pytest.mark.parametrize('gate', [GAPFCGate(8, 4), ConvGAPGate(8, 4)])
def test_float32_under_autocast(gate):
    x = torch.randn(2, 8, 6, 6)
    with torch.autocast('cpu', torch.bfloat16):
        inside = gate(x)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, gate(x))
    assert copy.deepcopy(gate).half()(x.half()).dtype == torch.float32


@pytest.mark.parametrize('gate', [GAPFCGate(8, 4), ConvGAPGate(8, 4)])
def test_every_parameter_is_trained(gate):
    gate(torch.randn(3, 8, 5, 5)).pow(2).sum().backward()
    for name, p in gate.named_parameters():
        assert p.grad.abs().sum() > 0, name


def test_initialisers_of_layers_do_not_reach_gates():
    for gate in (GAPFCGate(8, 4), ConvGAPGate(8, 4)):
        assert not any(
            isinstance(m, (nn.Linear, nn.Conv2d)) for m in gate.modules())


def test_noise_starts_with_the_scale_of_the_paper():
    # W_noise = 0: standard deviation softplus(0) + 0.01 = 0.7031
    noise = GateNoise(4, 8)(torch.randn(5000, 4, 2, 2))
    assert noise.std().item() == pytest.approx(0.7031, rel=0.02)
