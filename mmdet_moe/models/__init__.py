"""MMDetection adapters of the layers; importing them registers them."""
from .backbones import MoEResNet
from .dense_heads import MoERetinaHead
from .moe_conv import MoEConv
from .necks import MoEFPN
from .upcycling import UpcycleInit

__all__ = ['MoEConv', 'MoEFPN', 'MoEResNet', 'MoERetinaHead',
           'UpcycleInit']
