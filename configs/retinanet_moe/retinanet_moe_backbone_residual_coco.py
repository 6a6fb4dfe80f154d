"""Residual BlockMoE in the last backbone stage, new experts."""
_base_ = '../_base_/retinanet_r50_fpn_frozen_coco.py'

# New experts, with BatchNorm that is trained; the rest is the dense detector.
load_from = _base_.dense
model = dict(
    init_cfg=None,
    backbone=dict(
        type='MoEResNet',
        moe=_base_.moe,
        moe_stages=(3, ),
        residual=True,
        norm_eval=False,
        init_cfg=None))
