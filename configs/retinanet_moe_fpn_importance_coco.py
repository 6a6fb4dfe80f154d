_base_ = './retinanet_moe_fpn_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(soft_constraint=dict(type='ImportanceLoss', weight=0.5))))
