"""Residual BlockMoE in the last backbone stage."""
_base_ = '../_base_/retinanet_r50_fpn_frozen_coco.py'

# The added input makes it another detector than the dense one, so this is no
# upcycling: the experts start as copies of the dense blocks and have to adapt,
# with BatchNorm that is trained.
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
