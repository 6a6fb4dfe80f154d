"""YOLOX-nano with experts of positions after the neck, on seven real domains.

    python tools/train.py configs/domains/yolox_moe_positions_nano_domains.py

As yolox_moe_nano_domains.py, but the gate decides about each position. The
experts are feed-forward networks that cost as much as the convolutions there.
"""
_base_ = [
    '../_base_/yolox_nano_small.py', '../_base_/domains.py',
    '../_base_/schedule_6_epochs.py', '../_base_/moe_positions.py'
]

model = dict(
    type='MoEDetector',
    detector='YOLOX',
    bbox_head=dict(num_classes=len(_base_.metainfo.classes)),
    experts=[
        dict(
            after='neck',
            hidden_channels=144,
            identity_at_start=True,
            # after a neck nobody knows which positions have an object
            **dict(_base_.moe, balance_weight='sample'))
    ])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
