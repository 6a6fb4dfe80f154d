"""Static gate, for ablation: always the first expert."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            top_k=1,
            gate=dict(type='SingleExpertGate'),
            soft_constraint=None)))
