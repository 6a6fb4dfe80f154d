"""ResNet-18 on CIFAR-100, without experts.

    python tools/train.py configs/cifar100/resnet18_cifar100.py

The schedule is that of the code of Pavlitska et al. 2022: Adam, a warm-up to
1e-3, a tenth after 80 and 120 of 150 epochs, batches of 128. Their notebooks
have 72.6 % with it. It was not run here: CIFAR-100 was not at hand.
"""
default_scope = 'mmpretrain'
custom_imports = dict(
    imports=['mmdet_moe', 'mmdet_moe.classification'],
    allow_failed_imports=False)

model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=18),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead',
        num_classes=100,
        in_channels=512,
        topk=(1, 5),
        loss=dict(type='CrossEntropyLoss')),
    data_preprocessor=dict(
        num_classes=100,
        # Of the training pictures, RGB, as which they are read.
        mean=[129.304, 124.070, 112.434],
        std=[68.170, 65.392, 70.418],
        to_rgb=False))

meta_keys = ('sample_idx', 'img_path', 'ori_shape', 'img_shape')
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs', meta_keys=meta_keys)
]
test_pipeline = [dict(type='PackInputs', meta_keys=meta_keys)]

data_root = 'data/cifar100/'
train_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='SuperclassCIFAR100',
        data_root=data_root,
        split='train',
        pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=128,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='SuperclassCIFAR100',
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='Accuracy', topk=(1, 5))
test_evaluator = val_evaluator

train_cfg = dict(by_epoch=True, max_epochs=150, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='Adam', lr=1e-3))
param_scheduler = [
    dict(
        type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=5,
        convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[80, 120], gamma=0.1)
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=100),
    checkpoint=dict(type='CheckpointHook', interval=1, max_keep_ckpts=2))
randomness = dict(seed=0)
