"""FCOS-R50-FPN with experts in the last convolution of each tower, on COCO.

    python tools/train.py configs/fcos/fcos_moe_r50_fpn_1x_coco.py

Data and schedule are those of the stock config.
"""
_base_ = [
    'mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py',
    '../_base_/moe.py'
]

model = dict(
    type='MoEDetector',
    detector='FCOS',
    experts=[
        dict(
            at=[
                'bbox_head.cls_convs.3.conv',
                'bbox_head.reg_convs.3.conv'
            ],
            **_base_.moe)
    ])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
