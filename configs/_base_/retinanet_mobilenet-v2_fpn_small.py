# RetinaNet on a MobileNetV2 that was trained on ImageNet, for two CPU cores:
# 64 channels, two convolutions per subnet, three anchors at a position, of 24
# pixels and more. The early stages are frozen; the head has GroupNorm, which
# does not mind how many samples an expert gets.
_base_ = './retinanet_r18_fpn_small.py'

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(2, 4, 6),
        frozen_stages=3,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/weights/mobilenet_v2_imagenet.pth')),
    neck=dict(in_channels=[32, 96, 320], start_level=0),
    bbox_head=dict(
        anchor_generator=dict(octave_base_scale=3, scales_per_octave=1)))
