_base_ = [
    'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', './_base_/moe.py'
]

model = dict(
    neck=dict(
        type='MoEFPN',
        moe_in=('output', ),
        moe=dict(
            num_experts=4,
            top_k=2,
            gate=dict(type='GAPFCGate'),
            soft_constraint=dict(type='KLLoss', weight=0.5))))
