import torch
from mmdet.registry import MODELS

from mmdet_moe.detection import MoENeck
from mmdet_moe.layers.scopes import LevelScope


def test_after_any_neck():
    neck = MODELS.build([
        dict(type='FPN', in_channels=[8, 16], out_channels=8, num_outs=3),
        dict(type='MoENeck', in_channels=8, hidden_channels=4, moe=dict())
    ])
    maps = neck((torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8)))
    assert [m.shape[-1] for m in maps] == [16, 8, 4]
    assert isinstance(neck[1].mixture.scope, LevelScope)


def test_a_decision_for_each_position():
    neck = MoENeck(8, expert='ffn', moe=dict(num_experts=3, top_k=1))
    maps = neck([torch.randn(2, 8, 4, 4), torch.randn(2, 8, 2, 2)])
    assert [m.shape[-1] for m in maps] == [4, 2]
    assert len(neck.mixture.decide(maps).weights) == 2 * (16 + 4)
