"""Importance and load loss with learned gate noise, as Shazeer et al."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            noise=True,
            soft_constraint=[
                dict(type='ImportanceLoss', weight=0.1),
                dict(type='LoadLoss', weight=0.1)
            ])))
