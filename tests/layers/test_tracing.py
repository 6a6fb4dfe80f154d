import torch
from torch import nn

from mmdet_moe.layers import MoELayer, traced


def layer(**options):
    return MoELayer(lambda: nn.Conv2d(1, 1, 1), 1, num_experts=2, top_k=1,
                    **options).eval()


def test_calls_level_by_level_are_kept_in_order():
    model = nn.ModuleDict(dict(used=layer(), idle=layer()))
    with traced(model) as decisions:
        for size in (8, 4):
            model['used'](torch.randn(3, 1, size, size + 1))
    assert [(m.height, m.width) for m in decisions['used']] == [(8, 9), (4, 5)]
    assert decisions['used'][0].weights.shape == (3, 1, 1, 2)
    assert decisions['idle'] == []
    assert not model['used']._forward_hooks


def test_patches_have_a_value_each():
    """Left of the picture to expert 0, right to expert 1; 3 x 3 patches."""
    moe = layer(scope=dict(type='PatchScope', grid=3))
    moe.gate.weight.data = torch.tensor([[9.0], [-9.0]])
    moe.gate.bias.data.zero_()
    x = torch.ones(1, 1, 7, 5)
    x[..., 3:] = -2
    with traced(moe) as decisions:
        moe([x, x[..., :2, 2:4]])
    large, small = decisions['']
    # columns 0 | 1 2 | 3 4, the means are 1, 1, -2
    assert large.weights[0, :, :, 0].tolist() == [[1, 1, 0]] * 3
    # 2 x 2 positions: patches of one position each, the first of them twice
    assert small.weights[0, :, :, 0].tolist() == [[1, 1, 0]] * 3
    assert (large.logits[0, :, 2, 0] == -18).all()
    assert large.distinct.all()
    assert small.distinct.tolist() == [[False] * 3] + [
        [False, True, True]] * 2
