from .moe_fpn import MoEFPN
from .moe_neck import MoENeck

__all__ = ['MoEFPN', 'MoENeck']
