"""Constraints and positions on 100 classes of Tiny ImageNet.

    python tools/sweep.py configs/cifar100/grid_tiny_imagenet.py --seeds 0 1 2
"""
_base_ = ['./grid.py']

base = './resnet18_moe_tiny_imagenet.py'
others = dict(dense='./resnet18_tiny_imagenet.py')
axes = dict(
    experts=dict(_delete_=True, e4={}), kind=dict(_delete_=True, plain={}))
