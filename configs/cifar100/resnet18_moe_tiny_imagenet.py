"""The same with a mixture of four as the last block (BlockMoE).

    python tools/train.py configs/cifar100/resnet18_moe_tiny_imagenet.py
"""
_base_ = ['./resnet18_tiny_imagenet.py']

custom_hooks = [dict(type='MoEHook')]
model = dict(
    type='MoEClassifier',
    classifier='ImageClassifier',
    experts=[
        dict(
            at='backbone.layer4.1',
            num_experts=4,
            top_k=2,
            soft_constraint=dict(type='KLLoss', weight=0.5))
    ])
