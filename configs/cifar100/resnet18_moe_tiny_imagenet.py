"""The same with a mixture of four as the last block (BlockMoE).

    python tools/train.py configs/cifar100/resnet18_moe_tiny_imagenet.py
"""
_base_ = ['./resnet18_tiny_imagenet.py', '../_base_/moe_classifier.py']

model = dict(
    type='MoEClassifier',
    classifier='ImageClassifier',
    experts=[dict(at='backbone.layer4.1', **_base_.moe)])
