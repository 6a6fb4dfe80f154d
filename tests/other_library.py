"""A library beside MMDetection, as MMRotate and MMYOLO are: its registries are
children of MMEngine's, and it names MMDetection's types with ``mmdet.``."""
from mmdet.models.dense_heads import FCOSHead
from mmengine.registry import MODELS, Registry

SCOPE = 'other_library'
OTHER_MODELS = Registry('model', parent=MODELS, scope=SCOPE)


@OTHER_MODELS.register_module()
class OtherHead(FCOSHead):
    """A type that only the other library has."""


CONFIG = """
default_scope = 'other_library'
model = dict(
    type='mmdet.FCOS',
    data_preprocessor=dict(
        type='mmdet.DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(
        type='mmdet.ResNet', depth=18, base_channels=8, stem_channels=8),
    neck=dict(
        type='mmdet.FPN', in_channels=[8, 16, 32, 64], out_channels=16,
        num_outs=5),
    bbox_head=dict(
        type='OtherHead', num_classes=3, in_channels=16, feat_channels=16,
        stacked_convs=1, norm_cfg=dict(type='GN', num_groups=4),
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='mmdet.IoULoss'),
        loss_centerness=dict(
            type='mmdet.CrossEntropyLoss', use_sigmoid=True),
        bbox_coder=dict(type='mmdet.DistancePointBBoxCoder')),
    test_cfg=dict(nms_pre=100, score_thr=0.0, max_per_img=10,
                  nms=dict(type='nms', iou_threshold=0.5)))
val_evaluator = dict(type='mmdet.CocoMetric', ann_file='val.json')
test_evaluator = val_evaluator
"""
