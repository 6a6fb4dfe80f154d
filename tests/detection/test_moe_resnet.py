import pytest
import torch
from mmdet.models.backbones import ResNet

from mmdet_moe.detection import MoEResNet
from mmdet_moe.layers import MoELayer, moe_layers, upcycle

SMALL = dict(base_channels=8, stem_channels=8)


def evaluating(backbone):
    backbone.eval()  # ResNet's own returns nothing
    return backbone


@pytest.mark.parametrize('depth', [18, 50])
@pytest.mark.parametrize('place, names', [
    (dict(), ['layer4.0', 'layer4.1', 'layer4.2']),
    (dict(moe_stages=(0, 2), moe_unit='stage'), ['layer1', 'layer3']),
])
def test_copies_of_the_dense_blocks_are_the_dense_backbone(
        depth, place, names):
    dense = evaluating(ResNet(depth, **SMALL))
    moe = evaluating(MoEResNet(depth, moe=dict(), **place, **SMALL))
    found = list(moe_layers(moe))
    assert found == (names[:2] if depth == 18 else names)
    report = upcycle(moe, dense.state_dict())
    assert report.matches, report
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(dense(x), moe(x)):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_residual_variant_adds_the_projected_input():
    plain = evaluating(MoEResNet(18, moe=dict(), **SMALL))
    added = evaluating(MoEResNet(18, moe=dict(), residual=True, **SMALL))
    added.load_state_dict(plain.state_dict(), strict=False)
    # The first block of the stage halves the size: 1x1 convolution and norm;
    # the second keeps the shape: the input itself.
    for block, shape in ((0, (2, 32, 8, 8)), (1, (2, 64, 4, 4))):
        x = torch.randn(shape)
        with_input, without = added.layer4[block], plain.layer4[block]
        assert torch.allclose(
            with_input(x), without(x) + with_input.projection(x), atol=1e-5)
    assert isinstance(added.layer4[1].projection, torch.nn.Identity)
    report = upcycle(added, ResNet(18, **SMALL).state_dict())
    assert 'residual=True' in str(report) and not report.matches


def test_initialisation_is_that_of_the_dense_blocks():
    backbone = MoEResNet(18, moe=dict(), **SMALL)
    backbone.init_weights()
    for expert in backbone.layer4[0].experts:
        assert not expert.bn2.weight.any()  # zero_init_residual
    first, second = (e.conv1.weight for e in backbone.layer4[0].experts[:2])
    assert not torch.equal(first, second)


def test_a_pretrained_backbone_goes_into_every_expert(tmp_path):
    dense = ResNet(18, **SMALL)
    torch.save(dense.state_dict(), tmp_path / 'resnet.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'resnet.pth'))
    for options in (dict(), dict(moe_unit='stage', residual=True)):
        backbone = MoEResNet(18, moe=dict(), init_cfg=init, **options, **SMALL)
        backbone.init_weights()
        last = backbone.layer4 if options else backbone.layer4[0]
        for expert in last.experts:
            block = expert[0] if options else expert
            assert torch.equal(block.conv1.weight,
                               dense.layer4[0].conv1.weight)


@pytest.mark.parametrize('options', [
    dict(), dict(moe_unit='stage', residual=True, norm_eval=False)])
def test_frozen_stages_are_frozen_with_their_experts(options):
    backbone = MoEResNet(18, moe=dict(), moe_stages=(0, 3), frozen_stages=1,
                         **options, **SMALL)
    for _ in ('as built', 'in training'):
        assert not any(m.training for m in backbone.layer1.modules())
        assert not any(p.requires_grad for p in backbone.layer1.parameters())
        assert all(p.requires_grad for p in backbone.layer4.parameters())
        backbone.train()
    assert all(m.training for m in moe_layers(backbone.layer4).values())


@pytest.mark.parametrize('options, message', [
    (dict(moe_stages=(4, )), 'moe_stages=4: .* from 0 to 3'),
    (dict(moe_stages=()), 'moe_stages'),
    (dict(moe_stages=(3, 3)), 'moe_stages=.*each once'),
    (dict(conv_cfg=dict(type='MoEConv')), "expert='MoEConv'"),
    (dict(moe_unit='layer'), "moe_unit='layer': .*'block', 'stage'"),
    (dict(residual=1.5), 'residual=1.5'),
    (dict(moe=dict(top_k=7)), 'top_k=7'),
    (dict(moe=dict(balance_weight='foreground')), 'balance_weight='),
    (dict(moe=dict(scope=dict(type='PatchScope'))), 'scope=PatchScope'),
    (dict(norm_cfg=dict(type='SyncBN')), "norm='SyncBN'"),
])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MoEResNet(18, **{**SMALL, 'moe': dict(), **options})


def test_a_layer_is_a_moe_layer():
    layer = MoEResNet(18, moe=dict(num_experts=3), **SMALL).layer4[0]
    assert isinstance(layer, MoELayer) and layer.in_channels == 32
