"""Metrics; importing them registers them."""
from .domain_metric import DomainCocoMetric
from .expert_assignment import ExpertAssignmentMetric

__all__ = ['DomainCocoMetric', 'ExpertAssignmentMetric']
