"""Deformable DETR-R50 with experts in the decoder's feed-forward networks, on
COCO. Each query is a sample.

    python tools/train.py configs/deformable_detr/deformable-detr_moe_r50_16xb2-50e_coco.py

Data and schedule are those of the stock config.
"""
_base_ = [
    'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    '../_base_/moe.py'
]

model = dict(
    type='MoEDetector',
    detector='DeformableDETR',
    experts=[dict(at='decoder.layers.*.ffn', **_base_.moe)])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
