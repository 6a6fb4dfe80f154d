from .moe_resnet import MoEResNet

__all__ = ['MoEResNet']
