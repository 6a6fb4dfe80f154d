"""The dense twin of rtmdet_moe_tiny_upcycled_shapes.py.

RTMDet-tiny, trained for another six epochs after those of
rtmdet_tiny_shapes.py, with a learning rate that is five times lower.
"""
_base_ = './rtmdet_tiny_shapes.py'

load_from = 'work_dirs/rtmdet_tiny_shapes/epoch_6.pth'
optim_wrapper = dict(optimizer=dict(lr=2e-4))
