"""KL loss and relative importance constraint together."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            hard_constraint=dict(type='RelativeImportance', threshold=0.3))))
