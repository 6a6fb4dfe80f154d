"""Relative importance constraint, moved at every call (the authors' code)."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=None,
            hard_constraint=dict(
                type='RelativeImportance',
                threshold=0.3,
                paper_per_call=True))))
