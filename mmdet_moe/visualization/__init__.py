"""Pictures of what experts do; importing registers visualizer and hook."""
from .expert_visualizer import ExpertVisualizer
from .folder_visualization_hook import FolderVisualizationHook

__all__ = ['ExpertVisualizer', 'FolderVisualizationHook']
