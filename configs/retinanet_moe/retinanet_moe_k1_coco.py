"""K = 1, with the Switch loss: the KL loss has no gradient there."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            top_k=1,
            soft_constraint=dict(type='SwitchLoss', weight=0.01))))
