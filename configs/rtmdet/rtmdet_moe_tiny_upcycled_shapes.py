"""RTMDet-tiny whose towers become experts once they are trained, on shapes.

    python tools/dataset_converters/generate_shapes.py data/shapes
    python tools/train.py configs/rtmdet/rtmdet_tiny_shapes.py
    python tools/train.py configs/rtmdet/rtmdet_moe_tiny_upcycled_shapes.py

Each expert starts as a copy of the dense convolution. Another checkpoint to
start from: --cfg-options model.init_cfg.checkpoint=...
"""
_base_ = './rtmdet_moe_tiny_shapes.py'

model = dict(
    init_cfg=dict(
        type='Upcycle',
        checkpoint='work_dirs/rtmdet_tiny_shapes/epoch_6.pth',
        noise=0.01))
optim_wrapper = dict(optimizer=dict(lr=2e-4))
