"""One decision per image for all levels."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            scope=dict(type='ImageScope'))))
