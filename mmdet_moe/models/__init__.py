"""MMDetection adapters of the layers; importing them registers them."""
from .backbones import MoEResNet
from .dense_heads import MoERetinaHead
from .detector import build_moe_detector
from .mixtures import Mixture, MoEConv, MoELinear
from .necks import MoEFPN, MoENeck
from .reporting import report_decisions

__all__ = [
    'Mixture', 'MoEConv', 'MoEFPN', 'MoELinear', 'MoENeck', 'MoEResNet',
    'MoERetinaHead', 'build_moe_detector', 'report_decisions'
]
