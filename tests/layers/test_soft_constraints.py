import math

import pytest
import torch

from mmdet_moe.layers.soft_constraints import importance_loss, kl_loss


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
def test_by_hand(importance, cv2, kl):
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
