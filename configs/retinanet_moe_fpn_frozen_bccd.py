"""The paper's recipe on BCCD: experts that start as copies, the rest frozen.

    python tools/train.py configs/retinanet_fpn_bccd.py
    python tools/train.py configs/retinanet_moe_fpn_frozen_bccd.py

Starts from the checkpoint of the dense twin. 3 epochs, a minute on 2 CPU cores.
Another checkpoint: --cfg-options model.init_cfg.checkpoint=...
"""
_base_ = './retinanet_moe_fpn_bccd.py'

model = dict(
    init_cfg=dict(
        type='Upcycle',
        checkpoint='work_dirs/retinanet_fpn_bccd/epoch_12.pth',
        noise=0.01))
custom_hooks = [dict(type='MoEHook'), dict(type='FreezeHook')]

max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='Adam', lr=1e-5),
    clip_grad=dict(max_norm=0.1))
param_scheduler = []
