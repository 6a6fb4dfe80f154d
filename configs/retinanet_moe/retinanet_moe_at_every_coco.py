"""Experts are all convolutions of the subnets, a gate each (ConvMoE)."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe_at='every'))
