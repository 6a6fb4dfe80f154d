import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.necks import FPN

from mmdet_moe.detection import MoEFPN
from mmdet_moe.models import Mixture, MoEConv

SHAPE = dict(
    in_channels=[8, 16],
    out_channels=8,
    num_outs=4,
    add_extra_convs='on_input')


def features():
    return torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8)


@pytest.mark.parametrize('moe_in', ['output', 'lateral', ('output', 'lateral')])
def test_copies_of_the_dense_convolutions_are_the_dense_neck(moe_in):
    dense, moe = FPN(**SHAPE), MoEFPN(**SHAPE, moe=dict(), moe_in=moe_in)
    for part in ('lateral_convs', 'fpn_convs'):
        for a, b in zip(getattr(dense, part), getattr(moe, part)):
            targets = b.conv.experts if isinstance(b.conv,
                                                   Mixture) else [b.conv]
            for target in targets:
                target.load_state_dict(a.conv.state_dict())
    x = features()
    for a, b in zip(dense(x), moe(x)):
        assert torch.allclose(a, b, atol=1e-5)


def test_only_the_named_convolutions_have_experts():
    neck = MoEFPN(**SHAPE, moe=dict(num_experts=3), moe_in='output')
    assert all(isinstance(m.conv, Mixture) for m in neck.fpn_convs)
    assert not any(isinstance(m.conv, Mixture) for m in neck.lateral_convs)


@pytest.mark.parametrize('options, message', [
    (dict(moe_in='top'), "moe_in=.*top.*'output', 'lateral'"),
    (dict(moe=dict(gates=1)), 'moe.gates=1'),
    (dict(moe=dict(top_k=9)), 'top_k=9'),
    (dict(moe=None), 'moe=None: allowed is a dict'),
    (dict(moe=dict(balance_weight='foreground')), 'balance_weight='),
])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MoEFPN(**{**SHAPE, 'moe': dict(), **options})


def test_moe_conv_as_conv_cfg():
    module = ConvModule(
        8, 4, 3, stride=2, padding=1, conv_cfg=dict(type='MoEConv', top_k=1))
    assert isinstance(module.conv, MoEConv)
    assert module(torch.randn(2, 8, 9, 9)).shape == (2, 4, 5, 5)


def test_a_conv_cfg_knows_no_objects():
    with pytest.raises(ValueError, match='balance_weight='):
        ConvModule(8, 4, 3, conv_cfg=dict(
            type='MoEConv', balance_weight='foreground'))


def test_a_conv_cfg_sees_one_level_at_a_time():
    with pytest.raises(ValueError, match=r"scope=ImageScope\(\): .*LevelScope"):
        ConvModule(8, 4, 3, conv_cfg=dict(
            type='MoEConv', scope=dict(type='ImageScope')))


def test_the_shared_expert_starts_like_the_others():
    conv = MoEConv(64, 64, 3, shared_expert=True)
    scale = [expert.weight.std().item() for expert in conv.all_experts]
    assert len(scale) == 5 and scale == pytest.approx([scale[0]] * 5, rel=0.05)
    assert not any(expert.bias.any() for expert in conv.all_experts)
