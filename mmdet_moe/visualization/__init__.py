"""Pictures of what experts do; importing registers the visualizer."""
from .expert_visualizer import ExpertVisualizer

__all__ = ['ExpertVisualizer']
