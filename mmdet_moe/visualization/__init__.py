"""Pictures of what experts do; importing registers the visualizer."""
from .colours import EXPERT_COLOURS
from .expert_visualizer import ExpertVisualizer

__all__ = ['EXPERT_COLOURS', 'ExpertVisualizer']
