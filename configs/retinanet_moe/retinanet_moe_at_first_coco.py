"""Experts are the first convolutions of the towers."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe_at='first'))
