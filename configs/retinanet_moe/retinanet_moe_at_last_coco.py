"""Experts are the last convolutions of the towers."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe_at='last'))
