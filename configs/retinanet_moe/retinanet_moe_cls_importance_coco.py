"""Experts in the classification subnet, importance loss, weight 0.5."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe_in=('cls', ),
        moe=dict(
            soft_constraint=dict(type='ImportanceLoss', weight=0.5))))
