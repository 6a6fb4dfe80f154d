"""RetinaNet-R18 with experts of positions on BCCD, real blood smears.

    python tools/train.py configs/positions/retinanet_moe_positions_bccd.py

Data, schedule and dense twin are those of ../retinanet_moe_fpn_bccd.py.
"""
_base_ = ['../retinanet_fpn_bccd.py', '../_base_/moe_positions.py']

model = dict(
    type='MoEDetector',
    detector='RetinaNet',
    bbox_head=dict(
        type='MoERetinaHead', moe_at='block', moe=_base_.moe))

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
