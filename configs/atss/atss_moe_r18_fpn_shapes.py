"""ATSS-R18 with experts in the regression tower, on generated shapes.

    python tools/dataset_converters/generate_shapes.py data/shapes
    python tools/train.py configs/atss/atss_moe_r18_fpn_shapes.py

Each convolution of the tower is a mixture of four. With experts in the
classification tower as well it loses accuracy, see docs/detectors.md.
"""
_base_ = ['./atss_r18_fpn_shapes.py', '../_base_/moe.py']

model = dict(
    type='MoEDetector',
    detector='ATSS',
    experts=[dict(at='bbox_head.reg_convs.*.conv', **_base_.moe)])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
