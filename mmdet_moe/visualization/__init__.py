"""Pictures of what experts do."""
from .expert_boxes import EXPERT_COLOURS, draw_boxes_by_expert

__all__ = ['EXPERT_COLOURS', 'draw_boxes_by_expert']
