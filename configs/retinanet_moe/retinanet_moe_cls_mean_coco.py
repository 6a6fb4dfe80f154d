"""Experts in the classification subnet, mean importance constraint, 0.1."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe_in=('cls', ),
        moe=dict(
            soft_constraint=None,
            hard_constraint=dict(type='MeanImportance', threshold=0.1))))
