"""The paper's recipe for YOLOX-nano: copies of trained towers, the rest frozen.

    python tools/train.py configs/yolox/yolox_moe_nano_frozen_coco.py

Starts from a trained YOLOX-nano at yolox_nano.pth; another file:
--cfg-options model.init_cfg.checkpoint=... Pictures are resized and flipped,
without mosaics, as the detector is trained already. The noise on the copies is
small, as noise of 0.01 costs half a point of AP.
"""
_base_ = './yolox_moe_nano_8xb8-300e_coco.py'

model = dict(
    data_preprocessor=dict(batch_augments=None),
    init_cfg=dict(type='Upcycle', checkpoint='yolox_nano.pth', noise=0.003))
custom_hooks = [dict(type='MoEHook'), dict(type='FreezeHook')]

pad_val = dict(img=(114.0, 114.0, 114.0))
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        _delete_=True,
        type='CocoDataset',
        data_root=_base_.data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', scale=(416, 416), keep_ratio=True),
            dict(type='RandomFlip', prob=0.5),
            dict(type='Pad', pad_to_square=True, pad_val=pad_val),
            dict(type='PackDetInputs')
        ]))

max_epochs = 6
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-5),
    clip_grad=dict(max_norm=0.1))
param_scheduler = []
auto_scale_lr = dict(enable=False, base_batch_size=4)
