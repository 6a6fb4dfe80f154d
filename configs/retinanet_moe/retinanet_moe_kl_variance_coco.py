"""KL loss for the balance, variance loss for the specialisation."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            soft_constraint=[
                dict(type='KLLoss', weight=0.5),
                dict(type='VarianceLoss', weight=0.1)
            ])))
