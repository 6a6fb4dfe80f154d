import math

import pytest
import torch
from torch import nn
from twins import decided

from mmdet_moe.layers import SOFT_CONSTRAINTS, MoELayer, top_k_routing
from mmdet_moe.layers.soft_constraints import (
    EntropyLoss,
    LoadLoss,
    RouterZLoss,
    SwitchLoss,
    VarianceLoss,
    importance_loss,
    kl_loss,
    selection_probability,
)


@pytest.mark.parametrize('importance, cv2, kl', [
    # balanced
    ([2, 2, 2, 2], 0.0, 0.0),
    # collapsed: mean 2, variance (36 + 3 * 4) / 3 = 16, 16 / 4 = E; log E
    ([8, 0, 0, 0], 4.0, math.log(4)),
    # mean 2, variance (1 + 1) / 1 = 2 -> 0.5; P = 1/4, 3/4
    ([1, 3], 0.5, 0.25 * math.log(0.5) + 0.75 * math.log(1.5)),
    # half: mean 1, variance 4 / 3; P = 1/2, 1/2, 0, 0 -> log 2
    ([2, 2, 0, 0], 4 / 3, math.log(2)),
])
def test_importance_and_kl_by_hand(importance, cv2, kl):
    importance = torch.tensor(importance, dtype=torch.float32)
    assert importance_loss(importance).item() == pytest.approx(cv2, abs=1e-6)
    assert kl_loss(importance).item() == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize('loss', [importance_loss, kl_loss])
def test_gradient_is_finite_and_against_the_overused(loss):
    importance = torch.tensor([3.0, 1.0, 0.0, 0.0], requires_grad=True)
    loss(importance).backward()
    assert torch.isfinite(importance.grad).all()
    assert importance.grad[0] > importance.grad[1]


@pytest.mark.parametrize('loss', [importance_loss, kl_loss])
def test_nothing_routed_and_a_single_expert(loss):
    assert loss(torch.zeros(4)) == 0
    assert loss(torch.tensor([3.0])) == 0


#: Those that need nothing but the samples; for the other see test_domains.py.
KINDS = [k for k, c in SOFT_CONSTRAINTS.items() if not c.needs_domains]


def loss_of(constraint, routing, counts=None):
    counts = torch.ones(len(routing.logits)) if counts is None else counts
    return constraint.loss(constraint.sums(routing, counts)).item()


LN3 = math.log(3)


def test_switch_by_hand():
    # Softmax of (0, ln 3) is (1/4, 3/4), of (ln 3, 0) the reverse.
    both = torch.tensor([[0, LN3], [0, LN3], [LN3, 0]])
    # f = 1/3, 2/3; P = (1/4 + 1/4 + 3/4) / 3 = 5/12, 7/12
    # 2 (1/3 * 5/12 + 2/3 * 7/12) = 2 * 19/36
    assert loss_of(SwitchLoss(), top_k_routing(both, 1)) == pytest.approx(
        19 / 18)
    # balanced: 1, whatever the probabilities
    assert loss_of(SwitchLoss(), top_k_routing(both[1:], 1)) == pytest.approx(1)
    # the second sample counted twice as much: f = 1/4, 3/4;
    # P = (1/4 + 2/4 + 3/4) / 4 = 3/8, 5/8; 2 (3/32 + 15/32)
    counts = torch.tensor([1.0, 2, 1])
    assert loss_of(SwitchLoss(), top_k_routing(both, 1),
                   counts) == pytest.approx(36 / 32)


def test_entropy_by_hand():
    # P = 3/4, 1/4 although one expert is selected for all
    routing = top_k_routing(torch.tensor([[LN3, 0.0]]), 1)
    expected = math.log(2) + 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert loss_of(EntropyLoss(), routing) == pytest.approx(expected)


def test_router_z_by_hand():
    # log(1 + 1) = ln 2; log(1 + 3) = 2 ln 2: mean square (1 + 4) / 2 ln^2 2
    routing = top_k_routing(torch.tensor([[0.0, 0], [0, LN3]]), 1)
    assert loss_of(RouterZLoss(), routing) == pytest.approx(
        2.5 * math.log(2)**2)


def test_variance_by_hand():
    # weights (1, 0) and (0, 1): each expert's variance is 1/4
    apart = top_k_routing(torch.tensor([[99.0, 0], [0, 99]]), 2)
    assert loss_of(VarianceLoss(), apart) == pytest.approx(0.5)
    # the same for all samples: nothing is specialised
    alike = top_k_routing(torch.tensor([[1.0, 0], [1, 0]]), 2)
    assert loss_of(VarianceLoss(), alike) == pytest.approx(1)


def phi(z):
    return (1 + math.erf(z / 2**0.5)) / 2


def test_load_by_hand():
    # Clean logits 0, 2, 1; noise 0.5, -0.5, 0; so noisy 0.5, 1.5, 1; K = 2.
    # Selected are 1 and 2, their rivals' second largest is 0.5; that of 0 is
    # 1. Scale 2: Phi((0 - 1) / 2), Phi((2 - 0.5) / 2), Phi((1 - 0.5) / 2).
    noise = torch.tensor([[0.5, -0.5, 0.0]])
    routing = top_k_routing(
        torch.tensor([[0.0, 2, 1]]) + noise, 2, noise=noise,
        noise_scale=torch.full((1, 3), 2.0))
    load = [phi(-0.5), phi(0.75), phi(0.25)]
    assert selection_probability(routing)[0].tolist() == pytest.approx(load)
    mean = sum(load) / 3
    variance = sum((x - mean)**2 for x in load) / 2
    assert loss_of(LoadLoss(), routing) == pytest.approx(variance / mean**2)


def test_load_with_masks_is_finite():
    logits = torch.randn(5, 4, requires_grad=True)
    scale = torch.ones(5, 4, requires_grad=True)
    masked = torch.tensor([True, False, True, False])
    routing = top_k_routing(logits, 2, masked, noise=torch.zeros(5, 4),
                            noise_scale=scale)
    probability = selection_probability(routing)
    assert probability[0].tolist() == [0, 1, 0, 1]
    probability.pow(2).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(scale.grad).all()


@pytest.mark.parametrize('kind', KINDS)
def test_every_loss_is_differentiable_and_additive(kind):
    """Sums of two calls are the sums of one call with all samples."""
    layer = MoELayer(
        lambda: nn.Conv2d(3, 3, 1), 3, noise=True,
        soft_constraint=dict(type=kind, weight=1))
    x = torch.randn(6, 3, 2, 2)
    constraint, = layer.soft_constraints
    routing, counts = decided(layer, x), torch.rand(6)
    parts = [
        constraint.sums(r, c)
        for r, c in zip(routing.split([2, 4]), counts.split([2, 4]))
    ]
    assert torch.allclose(sum(parts), constraint.sums(routing, counts))
    loss, = layer.collect().losses.values()
    loss.backward()
    assert layer.gate.fc_weight.grad.abs().sum() > 0


@pytest.mark.parametrize('kind', KINDS)
def test_a_level_without_foreground_has_no_gradient(kind):
    layer = MoELayer(
        lambda: nn.Conv2d(3, 3, 1), 3, noise=True, balance_over='call',
        balance_weight='foreground', soft_constraint=dict(type=kind))
    layer([torch.randn(2, 3, 2, 2), torch.randn(2, 3, 1, 1)])
    layer.weigh([torch.zeros(2, 4), torch.zeros(2, 1)])
    loss, = layer.collect().losses.values()
    loss.backward()
    assert torch.isfinite(loss)
    assert not layer.gate.fc_weight.grad.any()
