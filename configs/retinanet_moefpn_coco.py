_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/moe.py'
]

model = dict(neck=dict(type='MoEFPN', moe=_base_.moe))
