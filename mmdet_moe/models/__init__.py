"""Experts in models of MMEngine's interface, whatever they are for."""
from .mixtures import Mixture, MoEConv, MoELinear
from .reporting import report_decisions

__all__ = ['Mixture', 'MoEConv', 'MoELinear', 'report_decisions']
