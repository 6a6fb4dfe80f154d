"""RetinaNet-R18 with experts on shapes from five cameras, mixed.

    python tools/dataset_converters/generate_shapes.py data/domain_shapes --domains
    python tools/train.py configs/domains/retinanet_moe_fpn_domain_shapes.py

Nothing tells the detector which camera a picture is from.
"""
_base_ = [
    '../_base_/retinanet_r18_fpn_shapes.py', '../_base_/domain_shapes.py',
    '../_base_/schedule_6_epochs.py', '../_base_/moe.py'
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
