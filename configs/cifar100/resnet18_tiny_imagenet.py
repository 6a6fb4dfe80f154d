"""A narrow ResNet-18 without experts on 100 classes of Tiny ImageNet.

    python tools/train.py configs/cifar100/resnet18_tiny_imagenet.py

Pictures of 100 classes in 20 superclasses, 32 x 32, in CIFAR-100's layout; see
docs/classification.md. Four epochs with a falling learning rate: minutes on a
CPU.
"""
_base_ = ['./resnet18_cifar100.py']

model = dict(
    backbone=dict(stem_channels=16, base_channels=16),
    head=dict(in_channels=128))
data_root = 'data/tiny_imagenet_100/'
train_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader

train_cfg = dict(max_epochs=4, val_interval=4)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(
        type='OneCycleLR', eta_max=2e-3, total_steps=4, by_epoch=True,
        pct_start=0.2, convert_to_iter_based=True)
]
