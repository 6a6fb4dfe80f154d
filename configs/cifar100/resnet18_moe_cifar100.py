"""ResNet-18 on CIFAR-100, the last block a mixture of four (BlockMoE).

    python tools/train.py configs/cifar100/resnet18_moe_cifar100.py

Two of four blocks are run for each picture, and the KL loss keeps them
balanced. Not run here on CIFAR-100 itself.
"""
_base_ = ['./resnet18_cifar100.py', '../_base_/moe_classifier.py']

model = dict(
    type='MoEClassifier',
    classifier='ImageClassifier',
    experts=[dict(at='backbone.layer4.1', **_base_.moe)])
