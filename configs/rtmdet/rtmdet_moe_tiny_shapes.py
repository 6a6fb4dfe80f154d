"""RTMDet-tiny with experts in its towers, on generated shapes.

    python tools/dataset_converters/generate_shapes.py data/shapes
    python tools/train.py configs/rtmdet/rtmdet_moe_tiny_shapes.py

Each convolution of the two towers, which the levels share, is a mixture of
four. All of them start from random values, which costs much accuracy here, see
docs/detectors.md. rtmdet_moe_tiny_upcycled_shapes.py starts from a trained
detector.
"""
_base_ = ['./rtmdet_tiny_shapes.py', '../_base_/moe.py']

model = dict(
    type='MoEDetector',
    detector='RTMDet',
    experts=[
        dict(
            at=[
                'bbox_head.cls_convs.0.*.conv', 'bbox_head.reg_convs.0.*.conv'
            ],
            **_base_.moe)
    ])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
