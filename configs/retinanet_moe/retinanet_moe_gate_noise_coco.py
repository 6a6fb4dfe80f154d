"""GAP-FC gate with learned noise."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            noise=True)))
