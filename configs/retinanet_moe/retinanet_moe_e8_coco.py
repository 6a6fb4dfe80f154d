"""E = 8 experts, K = 2."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            num_experts=8)))
