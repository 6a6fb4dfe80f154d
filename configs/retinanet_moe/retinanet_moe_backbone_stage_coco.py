"""Experts are the whole last backbone stage."""
_base_ = '../_base_/retinanet_r50_fpn_frozen_coco.py'

model = dict(
    backbone=dict(
        type='MoEResNet',
        moe=_base_.moe,
        moe_stages=(3, ),
        moe_unit='stage'))
