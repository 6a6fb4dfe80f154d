# RetinaNet small enough to be trained from scratch on two CPU cores in
# minutes: ResNet-18, 64 channels, two convolutions per subnet, smallest anchor
# of 16 pixels. As nothing is pretrained, BatchNorm of the backbone is trained,
# and the head has GroupNorm, which does not mind how many samples an expert
# gets.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    backbone=dict(
        depth=18, frozen_stages=-1, norm_eval=False, init_cfg=None),
    neck=dict(in_channels=[64, 128, 256, 512], out_channels=64),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='GN', num_groups=8),
        anchor_generator=dict(octave_base_scale=2)))
