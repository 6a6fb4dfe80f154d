"""RetinaNet with experts on seven real domains, mixed.

    python tools/train.py configs/domains/retinanet_moe_mobilenet-v2_fpn_domains.py

An expert is a tower of each subnet; the gates decide about each picture and
level. Only the classes, which no two domains share, tell which domain a picture
is from, and only in training.
"""
_base_ = [
    '../_base_/retinanet_mobilenet-v2_fpn_small.py', '../_base_/domains.py',
    '../_base_/schedule_6_epochs.py', '../_base_/moe.py'
]

model = dict(
    type='MoEDetector',
    detector='RetinaNet',
    bbox_head=dict(
        type='MoERetinaHead',
        num_classes=len(_base_.metainfo.classes),
        moe_at='tower',
        moe=dict(_base_.moe, num_experts=8)))

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
