"""The dense twin of faster-rcnn_moe_r18_fpn_shapes.py, without experts."""
_base_ = [
    '../_base_/faster-rcnn_r18_fpn_small.py', '../_base_/shapes.py',
    '../_base_/schedule_6_epochs.py'
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=5)))
