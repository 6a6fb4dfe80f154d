"""Static gate, for ablation: the mean of all experts."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            top_k=4,
            gate=dict(type='EqualGate'),
            soft_constraint=None)))
