"""RetinaNet-R50-FPN with mixtures of experts in both subnets, on COCO.

E = 4 experts, K = 2 active, KL loss 0.5: see _base_/moe.py.

    python tools/train.py configs/retinanet_moe_fpn_coco.py

Data at data/coco/ (annotations/, train2017/, val2017/). Everything but the
head is MMDetection's 1x RetinaNet, whose learning rate is meant for 8 GPUs
with 2 pictures each: give --auto-scale-lr for another number.
"""
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py', './_base_/moe.py',
    './_base_/schedule_1x.py'
]

model = dict(
    type='MoEDetector',
    detector='RetinaNet',
    bbox_head=dict(type='MoERetinaHead', moe=_base_.moe))

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
