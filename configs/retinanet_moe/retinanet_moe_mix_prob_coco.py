"""Mixes class probabilities, not logits (the authors' code)."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        mix='prob'))
