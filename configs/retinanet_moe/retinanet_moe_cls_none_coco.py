"""Experts in the classification subnet, no constraint."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe_in=('cls', ),
        moe=dict(
            soft_constraint=None)))
