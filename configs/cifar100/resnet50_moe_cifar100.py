"""ResNet-50 on CIFAR-100, the last bottleneck a mixture of four.

    python tools/train.py configs/cifar100/resnet50_moe_cifar100.py
"""
_base_ = ['./resnet18_moe_cifar100.py']

model = dict(
    backbone=dict(depth=50),
    head=dict(in_channels=2048),
    experts=[dict(at='backbone.layer4.2', **_base_.moe)])
