"""The dense twin of retinanet_moe_fpn_shapes.py: the same without experts."""
_base_ = [
    './_base_/retinanet_r18_fpn_shapes.py', './_base_/shapes.py',
    './_base_/schedule_6_epochs.py'
]
