"""Switch loss and router z-loss."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=[
                dict(type='SwitchLoss', weight=0.01),
                dict(type='RouterZLoss', weight=0.001)
            ])))
