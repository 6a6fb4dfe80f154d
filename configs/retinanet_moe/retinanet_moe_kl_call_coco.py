"""KL loss for each level on its own (the authors' code)."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            balance_over='call')))
