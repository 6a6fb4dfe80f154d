"""DINO-R50 with experts in the decoder's feed-forward networks, on COCO.

Each query is a sample; denoising queries that are only padding do not count
in the balance.

    python tools/train.py configs/dino/dino-4scale_moe_r50_8xb2-12e_coco.py

Data and schedule are those of the stock config.
"""
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', '../_base_/moe.py']

model = dict(
    type='MoEDetector',
    detector='DINO',
    experts=[dict(at='decoder.layers.*.ffn', **_base_.moe)])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
