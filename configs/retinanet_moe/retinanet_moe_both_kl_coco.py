"""Experts in both subnets, KL loss, weight 0.5: what the others change.

The paper's detection model: E = 4 copies of each subnet of a trained RetinaNet,
K = 2 of them active, one decision per image and level, a GAP-FC gate; trained
with everything else frozen.

    python tools/train.py configs/retinanet_moe/retinanet_moe_both_kl_coco.py
"""
_base_ = '../_base_/retinanet_r50_fpn_frozen_coco.py'

model = dict(bbox_head=dict(type='MoERetinaHead', moe=_base_.moe))

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
