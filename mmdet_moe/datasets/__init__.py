"""Data: generated pictures, domains, and checks of COCO-format data."""
from .domains import DomainCocoDataset

__all__ = ['DomainCocoDataset']
