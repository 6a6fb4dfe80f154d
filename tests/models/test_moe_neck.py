import pytest
import torch
from mmdet.registry import MODELS

from mmdet_moe.models import MoENeck

PYRAMID = [(2, 8, 16, 16), (2, 8, 8, 8), (2, 8, 4, 4)]


def test_a_residual_mixture_on_each_level():
    neck = MoENeck(8, moe=dict(num_experts=3, top_k=1))
    x = [torch.randn(shape) for shape in PYRAMID]
    decision = neck.mixture.decide(x)
    for level, (a, b) in enumerate(zip(x, neck(x))):
        for picture in range(2):
            e = decision.routing.experts[2 * level + picture, 0]
            expected = a[picture] + neck.mixture.experts[e](a[picture][None])
            torch.testing.assert_close(b[picture], expected[0])


def test_the_identity_until_it_is_trained():
    neck = MoENeck(8, moe=dict(), identity_at_start=True)
    neck.init_weights()
    x = [torch.randn(shape) for shape in PYRAMID]
    for a, b in zip(x, neck(x)):
        assert torch.equal(a, b)
    sum((y * torch.randn_like(y)).sum() for y in neck(x)).backward()
    assert neck.mixture.experts[0][-1].weight.grad.abs().sum() > 0


def test_after_any_neck():
    neck = MODELS.build([
        dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=3),
        dict(type='MoENeck', in_channels=8, hidden_channels=4, moe=dict())
    ])
    maps = neck((torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8)))
    assert [m.shape[-1] for m in maps] == [16, 8, 4]
    with pytest.raises(ValueError, match='hidden_channels=0'):
        MoENeck(8, moe=dict(), hidden_channels=0)
