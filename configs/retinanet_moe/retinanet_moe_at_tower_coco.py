"""Experts are towers, before common predictors."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe_at='tower'))
