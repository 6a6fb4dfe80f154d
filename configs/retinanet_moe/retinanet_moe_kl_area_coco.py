"""KL loss, each image and level counted by its area."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            balance_weight='area')))
