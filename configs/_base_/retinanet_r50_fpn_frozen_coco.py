# A trained RetinaNet-R50-FPN on COCO, of which only the MoE layers are trained.
# A config that builds on it says where these are.
_base_ = [
    'mmdet::_base_/models/retinanet_r50_fpn.py',
    'mmdet::_base_/datasets/coco_detection.py',
    'mmdet::_base_/default_runtime.py', './moe.py', './schedule_frozen.py'
]

# MMDetection's own checkpoint of the dense detector (AP 36.5).
dense = (
    'https://download.openmmlab.com/mmdetection/v2.0/retinanet/'
    'retinanet_r50_fpn_1x_coco/retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth'
)
model = dict(
    type='MoEDetector',
    detector='RetinaNet',
    init_cfg=dict(type='Upcycle', checkpoint=dense, noise=0.01))
custom_hooks = [dict(type='MoEHook'), dict(type='FreezeHook')]
train_dataloader = dict(batch_size=4)
