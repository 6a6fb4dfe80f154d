"""Experts in both subnets, relative importance constraint, 0.3."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=None,
            hard_constraint=dict(type='RelativeImportance', threshold=0.3))))
