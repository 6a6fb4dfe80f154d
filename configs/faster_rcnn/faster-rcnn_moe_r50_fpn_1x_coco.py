"""Faster R-CNN-R50-FPN with experts in the RPN and the box head, on COCO.

In the RPN an image at a level is a sample, in the box head each region.

    python tools/train.py configs/faster_rcnn/faster-rcnn_moe_r50_fpn_1x_coco.py

Data and schedule are those of the stock config.
"""
_base_ = [
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    '../_base_/moe.py'
]

model = dict(
    type='MoEDetector',
    detector='FasterRCNN',
    experts=[
        dict(
            at=[
                'rpn_head.rpn_conv',
                'roi_head.bbox_head.shared_fcs.1'
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
