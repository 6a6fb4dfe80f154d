"""MMDetection adapters of the layers; importing them registers them."""
from .backbones import MoEResNet
from .dense_heads import MoERetinaHead
from .detector import build_moe_detector
from .necks import MoEFPN, MoENeck
from .reporting import DetectionReporter
from .tracking import TrackingReporter
from .video import VideoReporter

__all__ = [
    'DetectionReporter', 'MoEFPN', 'MoENeck', 'MoEResNet', 'MoERetinaHead',
    'TrackingReporter', 'VideoReporter', 'build_moe_detector'
]
