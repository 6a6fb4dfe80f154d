"""RTMDet-tiny with experts in the last convolution of each tower, on COCO.

The levels share the convolution, and so the experts.

    python tools/train.py configs/rtmdet/rtmdet_moe_tiny_8xb32-300e_coco.py

Data and schedule are those of the stock config.
"""
_base_ = 'mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'
custom_imports = dict(imports=['mmdet_moe'], allow_failed_imports=False)

# As in _base_/moe.py.
moe = dict(
    num_experts=4,
    top_k=2,
    soft_constraint=dict(type='KLLoss', weight=0.5))

model = dict(
    type='MoEDetector',
    detector='RTMDet',
    experts=[
        dict(
            at=[
                'bbox_head.cls_convs.0.1.conv',
                'bbox_head.reg_convs.0.1.conv'
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
