"""Experts in both subnets, importance loss, weight 0.5."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=dict(type='ImportanceLoss', weight=0.5))))
