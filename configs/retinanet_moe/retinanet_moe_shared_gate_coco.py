"""One gate for both subnets."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        shared_gate=True))
