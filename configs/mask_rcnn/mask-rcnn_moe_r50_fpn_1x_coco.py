"""Mask R-CNN-R50-FPN with experts in the box head, on COCO. Each region is a
sample.

    python tools/train.py configs/mask_rcnn/mask-rcnn_moe_r50_fpn_1x_coco.py

Data and schedule are those of the stock config.
"""
_base_ = ['mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', '../_base_/moe.py']

model = dict(
    type='MoEDetector',
    detector='MaskRCNN',
    experts=[dict(at='roi_head.bbox_head.shared_fcs.1', **_base_.moe)])

val_evaluator = [
    _base_.val_evaluator,
    dict(
        type='ExpertAssignmentMetric',
        ann_file=_base_.val_evaluator.ann_file)
]
test_evaluator = val_evaluator
