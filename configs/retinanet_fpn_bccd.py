"""The dense twin of retinanet_moe_fpn_bccd.py: the same without experts."""
_base_ = [
    './_base_/retinanet_r18_fpn_small.py', './_base_/bccd.py',
    './_base_/schedule_small.py'
]

model = dict(bbox_head=dict(num_classes=3))
