"""2Conv-GAP gate."""
_base_ = './retinanet_moe_both_kl_coco.py'

model = dict(
    bbox_head=dict(
        moe=dict(
            gate=dict(type='TwoConvGAPGate'))))
