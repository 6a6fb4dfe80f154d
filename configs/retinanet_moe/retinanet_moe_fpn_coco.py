"""Experts are the output convolutions of the FPN (ConvMoE)."""
_base_ = '../_base_/retinanet_r50_fpn_frozen_coco.py'

model = dict(neck=dict(type='MoEFPN', moe=_base_.moe))
