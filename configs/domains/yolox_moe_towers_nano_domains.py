"""YOLOX-nano with classification towers as experts, on seven real domains.

    python tools/train.py configs/domains/yolox_moe_towers_nano_domains.py

Each level has a tower of its own, and so a gate of its own, which decides about
each picture. All experts start as the tower that was trained on COCO.
"""
_base_ = './yolox_moe_nano_domains.py'

model = dict(
    experts=[
        dict(
            at='bbox_head.multi_level_cls_convs.*',
            **dict(_base_.moe, num_experts=8))
    ])
