# Faster R-CNN on a MobileNetV2 that was trained on ImageNet, for two CPU cores.
# The early stages are frozen.
_base_ = './faster-rcnn_r18_fpn_small.py'

model = dict(
    data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        frozen_stages=3,
        norm_eval=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='data/weights/mobilenet_v2_imagenet.pth')),
    neck=dict(in_channels=[24, 32, 96, 320]))
