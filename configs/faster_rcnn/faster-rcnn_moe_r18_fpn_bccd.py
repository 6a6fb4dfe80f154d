"""Faster R-CNN-R18 with experts in the box head, on BCCD, real blood smears.

    python tools/train.py configs/faster_rcnn/faster-rcnn_moe_r18_fpn_bccd.py

The gate decides about each region.
"""
_base_ = ['./faster-rcnn_r18_fpn_bccd.py', '../_base_/moe.py']

model = dict(
    type='MoEDetector',
    detector='FasterRCNN',
    experts=[dict(at='roi_head.bbox_head.shared_fcs.1', **_base_.moe)])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
