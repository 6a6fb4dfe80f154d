"""Metrics; importing them registers them."""
from .expert_assignment import ExpertAssignmentMetric

__all__ = ['ExpertAssignmentMetric']
