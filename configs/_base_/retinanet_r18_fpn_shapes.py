# Half the channels in the backbone: twice the steps in the same time.
_base_ = './retinanet_r18_fpn_small.py'

model = dict(
    backbone=dict(base_channels=32, stem_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
    bbox_head=dict(num_classes=5))
