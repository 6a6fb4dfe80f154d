"""Upcycled detectors equal their dense ones, whatever has the experts."""
import copy

import detectors
import pytest
import stock
import torch
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmdet_moe.conversion.checkpoints import UpcyclingError
from mmdet_moe.conversion.compare import compare
from mmdet_moe.conversion.dense_twin import dense_twin
from mmdet_moe.layers import add_noise, moe_layers, upcycle

TOWERS = ['bbox_head.cls_convs.*', 'bbox_head.reg_convs.*']
ONE_STAGE = dict(
    fcos=TOWERS,
    atss=[f'{tower}.conv' for tower in TOWERS],
    rtmdet=['bbox_head.cls_convs.0.*.conv', 'bbox_head.reg_convs.0.1.conv'],
    yolox=[
        'bbox_head.multi_level_cls_convs.*',
        'bbox_head.multi_level_reg_convs.*'
    ])
REST = dict(
    faster_rcnn=['roi_head.bbox_head.shared_fcs.1', 'rpn_head.rpn_conv'],
    mask_rcnn=['roi_head.mask_head.convs.*'],
    cascade_rcnn=['roi_head.bbox_head.*.shared_fcs.0'],
    deformable_detr=['decoder.layers.*.ffn', 'bbox_head.cls_branches.0'],
    dino=['decoder.layers.*.ffn', 'encoder.layers.1.ffn.layers.0.0'])


def with_experts(model, at, **moe):
    return dict(model, type='MoEDetector', detector=model.type,
                experts=[dict(at=at, **moe)])


def model_config(name):
    if name in ONE_STAGE:
        return with_experts(detectors.small(detectors.HEADS[name]),
                            ONE_STAGE[name])
    return with_experts(stock.stock(name), REST[name])


def upcycled(cfg):
    """The detector without experts, the one with, and how it was made."""
    init_default_scope('mmdet')
    dense = stock.build(dense_twin(cfg))
    moe = MODELS.build(cfg)
    report = upcycle(moe, dense.state_dict())
    assert report.matches, report
    assert all(any(part in key for part in ('gate.', 'count'))
               for key in report.new)
    return dense, moe, report


@pytest.mark.parametrize('name', [*ONE_STAGE, *REST])
def test_upcycled_equals_dense(name):
    dense, moe, _ = upcycled(model_config(name))
    assert 'losses and outputs equal' in compare(dense, moe)
    # The comparison looks at what the experts do.
    add_noise(moe, 0.5)
    with pytest.raises(UpcyclingError, match='not the dense one'):
        compare(dense, moe)


def test_what_fails_without_experts_is_left_out(monkeypatch):
    """As losses for want of a GPU; what fails with experts only is not."""
    dense, moe, _ = upcycled(model_config('fcos'))

    def fails(*_, **__):
        raise RuntimeError('no kernel')

    monkeypatch.setattr(moe, 'loss', fails)
    with pytest.raises(UpcyclingError, match="'loss' with .*no kernel"):
        compare(dense, moe)
    monkeypatch.setattr(dense, 'loss', fails)
    assert "not compared: modes 'loss' (RuntimeError: no" in compare(dense, moe)
    for name in ('predict', '_forward'):
        monkeypatch.setattr(dense, name, fails)
    with pytest.raises(UpcyclingError, match='in no mode'):
        compare(dense, moe)


def test_experts_in_a_conv_cfg():
    cfg = detectors.small(
        detectors.HEADS['fcos'],
        bbox_head=dict(conv_cfg=dict(type='MoEConv', num_experts=3)))
    dense, moe, report = upcycled(dict(cfg, type='MoEDetector',
                                       detector='FCOS'))
    assert len(report.copied['bbox_head.cls_convs.0.conv.weight']) == 3
    assert 'losses and outputs equal' in compare(dense, moe)


def test_a_layer_under_several_names():
    """RTMDet's three levels share a convolution: 3 names x 4 experts."""
    _, moe, report = upcycled(model_config('rtmdet'))
    keys = report.copied['bbox_head.cls_convs.0.1.conv.weight']
    assert keys == [
        f'bbox_head.cls_convs.0.1.conv.experts.{e}.weight' for e in range(4)
    ]
    assert report.copied['bbox_head.cls_convs.2.1.conv.weight'] == [
        key.replace('convs.0', 'convs.2') for key in keys
    ]
    convs = [level[1].conv for level in moe.bbox_head.cls_convs]
    assert convs[0] is convs[1] is convs[2]
    # The noise is added once: of the scale that is asked for.
    before = convs[0].experts[0].weight.clone()
    add_noise(moe, 0.1)
    noise = convs[0].experts[0].weight - before
    assert 0.09 < noise.std() / before.std() < 0.11


def test_upcycling_has_the_last_word(tmp_path):
    """DETR draws encoder and decoder anew after its init_cfg."""
    cfg = model_config('deformable_detr')
    dense, moe, report = upcycled(copy.deepcopy(cfg))
    torch.save(dict(state_dict=dense.state_dict()), tmp_path / 'dense.pth')
    cfg['init_cfg'] = dict(
        type='Upcycle', checkpoint=str(tmp_path / 'dense.pth'), noise=0.0)
    cfg['backbone'].init_cfg = dict(type='Pretrained', checkpoint='gone.pth')
    stock_cfg = dense_twin(cfg)
    detector = MODELS.build(cfg)
    gates = {name: layer.gate.fc_weight.clone()
             for name, layer in moe_layers(detector).items()}
    detector.init_weights()
    for key, value in detector.state_dict().items():
        if key not in report.new:
            assert torch.equal(value, moe.state_dict()[key]), key
    for name, layer in moe_layers(detector).items():
        assert torch.equal(layer.gate.fc_weight, gates[name])

    # The stock class would undo it.
    stock_cfg.backbone.update(type='MoEResNet', moe=dict(), init_cfg=None)
    with pytest.raises(UpcyclingError, match="use type='MoEDetector'"):
        MODELS.build(stock_cfg).init_weights()


def test_the_dense_twin_of_a_wrapped_detector():
    model = stock.stock('faster_rcnn')
    assert dense_twin(with_experts(model, 'neck.fpn_convs.*')) == model
    # What only adds to the detector is left out.
    added = MODELS.module_dict
    assert 'Added' not in added

    @MODELS.register_module()
    class Added(torch.nn.Module):
        dense_twin = None
        moe_keys = ()

    try:
        assert dense_twin([model.neck, dict(type='Added')]) == [model.neck]
        assert dense_twin(model | dict(added=dict(type='Added'))) == model
    finally:
        added.pop('Added')
