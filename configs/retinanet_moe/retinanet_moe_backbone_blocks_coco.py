"""Experts are the blocks of the last backbone stage (BlockMoE)."""
_base_ = '../_base_/retinanet_r50_fpn_frozen_coco.py'

model = dict(
    backbone=dict(type='MoEResNet', moe=_base_.moe, moe_stages=(3, )))
