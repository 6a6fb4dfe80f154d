"""YOLOX-nano with towers as experts, on COCO.

Each level has towers of its own, and so a gate and experts of its own.

    python tools/train.py configs/yolox/yolox_moe_nano_8xb8-300e_coco.py

Data and schedule are those of the stock config.
"""
_base_ = 'mmdet::yolox/yolox_nano_8xb8-300e_coco.py'
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)

# As in _base_/moe.py.
moe = dict(
    num_experts=4,
    top_k=2,
    soft_constraint=dict(type='KLLoss', weight=0.5))

model = dict(
    type='MoEDetector',
    detector='YOLOX',
    experts=[
        dict(
            at=[
                'bbox_head.multi_level_cls_convs.*',
                'bbox_head.multi_level_reg_convs.*'
            ],
            **moe)
    ])

custom_hooks = [dict(type='MoEHook'), *_base_.custom_hooks]

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
