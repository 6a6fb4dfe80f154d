"""The dense twin of faster-rcnn_moe_r18_fpn_bccd.py, without experts."""
_base_ = [
    '../_base_/faster-rcnn_r18_fpn_small.py', '../_base_/bccd.py',
    '../_base_/schedule_small.py'
]

model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))
