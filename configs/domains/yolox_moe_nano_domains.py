"""YOLOX-nano with experts after the neck, on seven real domains, mixed.

    python tools/train.py configs/domains/yolox_moe_nano_domains.py

Starts as the detector that was trained on COCO, of which only the classifier is
new: the experts, two convolutions each, add nothing at first. The gate decides
about each picture and level. Only the classes, which no two domains share, tell
which domain a picture is from, and only in training.
"""
_base_ = [
    '../_base_/yolox_nano_small.py', '../_base_/domains.py',
    '../_base_/schedule_6_epochs.py', '../_base_/moe.py'
]

model = dict(
    type='MoEDetector',
    detector='YOLOX',
    bbox_head=dict(num_classes=len(_base_.metainfo.classes)),
    experts=[
        dict(
            after='neck',
            expert='conv',
            hidden_channels=16,
            identity_at_start=True,
            **dict(_base_.moe, num_experts=8))
    ])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
