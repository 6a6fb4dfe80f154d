"""Relative importance constraint, lifted after half of the training."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=None,
            hard_constraint=dict(
                type='RelativeImportance',
                threshold=0.3,
                lift_at=dict(epoch=6)))))
