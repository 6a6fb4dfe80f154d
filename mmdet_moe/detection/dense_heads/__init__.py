from .moe_retina_head import MoERetinaHead

__all__ = ['MoERetinaHead']
