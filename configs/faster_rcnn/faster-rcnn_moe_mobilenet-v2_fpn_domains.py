"""Faster R-CNN with experts in the box head, on seven real domains, mixed.

    python tools/train.py configs/faster_rcnn/faster-rcnn_moe_mobilenet-v2_fpn_domains.py

The gate decides about each region. Only the classes, which no two domains
share, tell which domain an image is from, and only in training.
"""
_base_ = [
    '../_base_/faster-rcnn_mobilenet-v2_fpn_small.py',
    '../_base_/domains.py', '../_base_/schedule_6_epochs.py',
    '../_base_/moe.py'
]

model = dict(
    type='MoEDetector',
    detector='FasterRCNN',
    roi_head=dict(bbox_head=dict(num_classes=len(_base_.metainfo.classes))),
    experts=[
        dict(
            at='roi_head.bbox_head.shared_fcs.1',
            **dict(_base_.moe, num_experts=8))
    ])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
