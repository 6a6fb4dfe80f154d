"""What detectors cost, against dense ones of the same work."""
import json

import pytest
from mmengine.config import Config
from mmengine.hub import get_config
from torch import nn

from mmdet_moe.analysis.complexity import (
    DEFAULT_SHAPE,
    active_fractions,
    as_text,
    complexity,
    picture_shape,
)
from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError

SHAPE = (96, 128)


def gates(levels, channels=64, experts=4, layers=2):
    return 2 * levels * channels * experts * layers


def test_one_of_four_experts_costs_what_the_dense_twin_does(load_config):
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.model.bbox_head.moe.update(top_k=1, soft_constraint=None)
    result = complexity(cfg, SHAPE)
    whole, twin = result.parts['model'], result.twin['model']
    assert whole.flops - gates(levels=5) == twin.flops
    for part in ('backbone', 'neck'):
        assert result.parts[part] == result.twin[part]
    head, dense = result.parts['bbox_head'], result.twin['bbox_head']
    assert head.all_experts_flops - gates(5) == 4 * dense.flops
    # Both gates have 64 x 4 weights and 4 biases.
    assert head.params == 4 * dense.params + 2 * 65 * 4
    assert head.active_params == dense.params + 2 * 65 * 4
    assert whole.params == sum(
        cost.params for name, cost in result.parts.items() if name != 'model')
    text = as_text(result)
    assert f'{head.active_params:,}' in text and 'dense GFLOPs' in text
    saved = json.loads(result.json())
    assert saved['parts']['bbox_head']['flops'] == head.flops
    assert saved['padded'] == [96, 128]


def test_k_experts_cost_k_heads(load_config):
    result = complexity(load_config('retinanet_moe_fpn_shapes'), SHAPE)
    head, dense = result.parts['bbox_head'], result.twin['bbox_head']
    assert head.flops - gates(levels=5) == 2 * dense.flops


@pytest.fixture
def mask_rcnn():
    """The stock config with few channels, 20 regions and 10 detections."""
    cfg = get_config('mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py')
    small = dict(
        backbone=dict(depth=18, base_channels=8, stem_channels=8),
        neck=dict(in_channels=[8, 16, 32, 64], out_channels=16),
        rpn_head=dict(in_channels=16, feat_channels=16),
        roi_head=dict(
            bbox_roi_extractor=dict(out_channels=16),
            bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=3),
            mask_roi_extractor=dict(out_channels=16),
            mask_head=dict(
                in_channels=16, conv_out_channels=8, num_classes=3)),
        test_cfg=dict(
            rpn=dict(max_per_img=20), rcnn=dict(max_per_img=10)))
    cfg.merge_from_dict(dict(model=small))
    return cfg


def test_a_stock_two_stage_detector(mask_rcnn):
    result = complexity(mask_rcnn, (90, 120))
    assert result.padded == (96, 128)
    assert result.twin is None and result.twin_error is None
    assert list(result.parts) == [
        'model', 'backbone', 'neck', 'rpn_head', 'roi_head'
    ]
    region = 7 * 7 * 16 * 32 + 32 * 32 + 32 * 4 + 32 * 12
    # Four convolutions, a transposed one, one to 3 classes on twice the size.
    mask = 14 * 14 * (9 * (16 * 8 + 3 * 8 * 8) + 4 * 8 * 8 + 4 * 8 * 3)
    assert result.parts['roi_head'].flops == 2 * (20 * region + 10 * mask)
    for cost in result.parts.values():
        assert cost.active_params == cost.params
        assert cost.all_experts_flops == cost.flops
    assert 'mmcv.roi_align_forward' in result.not_counted


def test_parameters_that_experts_share_are_active_more_often():
    common = nn.Conv2d(8, 8, 1)
    layer = MoELayer(
        lambda: nn.Sequential(nn.Conv2d(8, 8, 1), common), 8, num_experts=4)
    layer.experts[3][1] = nn.Conv2d(8, 8, 1)
    model = nn.ModuleList([layer, nn.Linear(2, 2)])
    fractions = active_fractions(model)
    assert fractions[layer.experts[0][0].weight] == 2 / 4
    # Of the 6 pairs of experts each has one of the three that share it.
    assert fractions[common.weight] == 1
    assert fractions[layer.gate.fc_weight] == fractions[model[1].bias] == 1


def test_shape_of_the_test_pipeline(mask_rcnn):
    def shape(*steps):
        mask_rcnn.test_dataloader.dataset.pipeline = list(steps)
        return picture_shape(mask_rcnn, DEFAULT_SHAPE)

    assert picture_shape(mask_rcnn, DEFAULT_SHAPE) == (800, 1333)
    assert shape(dict(type='Resize', scale=(300, 200))) == (200, 300)
    # Limits of the sides, in any order.
    assert shape(dict(type='Resize', scale=(200, 300), keep_ratio=True)) == (
        200, 300)
    assert shape(dict(type='Resize', scale_factor=1.)) == (800, 1333)
    assert picture_shape(
        Config(dict(model={})), DEFAULT_SHAPE) == (800, 1333)


@pytest.mark.parametrize('cfg, shape, message', [
    (dict(), SHAPE, 'model=None'),
    (dict(model=dict(type='FasterRCNN')), (0, 128), r'shape\[0\]=0'),
])
def test_bad_input(cfg, shape, message):
    with pytest.raises(ConfigError, match=message):
        complexity(Config(cfg), shape)


def test_a_twin_that_cannot_be_built_is_no_error(load_config, monkeypatch):
    cfg = load_config('retinanet_moe_fpn_shapes')
    monkeypatch.setattr(
        'mmdet_moe.analysis.complexity.dense_twin',
        lambda model: dict(type='NoDetector'))
    result = complexity(cfg, SHAPE)
    assert result.twin is None and 'NoDetector' in result.twin_error
    assert 'NoDetector' in as_text(result)


@pytest.mark.parametrize('channels', [5, 1])
def test_images_of_other_channels(load_config, channels):
    """The first convolution has 7 x 7 x C x 64 products for each output."""
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.model.data_preprocessor.update(
        mean=None, std=None, bgr_to_rgb=False)
    before = complexity(cfg, SHAPE).parts['backbone']
    cfg.model.backbone.in_channels = channels
    found = complexity(cfg, SHAPE).parts['backbone']
    wide = cfg.model.backbone.get('stem_channels') or cfg.model.backbone.get(
        'base_channels', 64)
    assert found.params - before.params == 49 * wide * (channels - 3)
    assert found.flops - before.flops == (
        2 * 49 * wide * (channels - 3) * (96 // 2) * (128 // 2))
