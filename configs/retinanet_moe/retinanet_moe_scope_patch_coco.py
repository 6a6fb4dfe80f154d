"""One decision per patch, 3 x 3 patches on each level."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            scope=dict(type='PatchScope', grid=3))))
