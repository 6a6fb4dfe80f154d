"""RetinaNet with experts of positions on seven real domains, mixed.

    python tools/train.py configs/domains/retinanet_moe_positions_mobilenet-v2_fpn_domains.py

The experts, feed-forward networks after the tower of each subnet, cost as much
for a position as the towers of retinanet_moe_mobilenet-v2_fpn_domains.py.
"""
_base_ = [
    '../_base_/retinanet_mobilenet-v2_fpn_small.py', '../_base_/domains.py',
    '../_base_/schedule_6_epochs.py', '../_base_/moe_positions.py'
]

model = dict(
    type='MoEDetector',
    detector='RetinaNet',
    bbox_head=dict(
        type='MoERetinaHead',
        num_classes=len(_base_.metainfo.classes),
        moe_at='block',
        block=dict(hidden_channels=576),
        moe=_base_.moe))

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
