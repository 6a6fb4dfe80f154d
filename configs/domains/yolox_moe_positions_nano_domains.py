"""YOLOX-nano with experts of positions after the neck, on seven real domains.

    python tools/train.py configs/domains/yolox_moe_positions_nano_domains.py

As yolox_moe_nano_domains.py, but the gate decides about each position. The
experts are feed-forward networks that cost as much as the convolutions there.
"""
_base_ = './yolox_moe_nano_domains.py'

model = dict(
    experts=[
        dict(
            after='neck',
            expert='ffn',
            hidden_channels=144,
            identity_at_start=True,
            num_experts=8,
            top_k=2,
            soft_constraint=dict(type='SwitchLoss', weight=0.01))
    ])
