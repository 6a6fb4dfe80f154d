"""Sparse Mixture-of-Experts layers in plain torch: the method itself.

Axis letters in every shape comment: N samples (one routing decision each),
E experts, K selected experts (``top_k``), C H W channels, height and width,
B images, L pyramid levels. By default a sample is one image at one pyramid
level, so N = B * L, level by level.

The way through: ``gates`` (features -> logits), ``routing`` (logits -> weights
of the selected experts), ``dispatch`` (run them), ``soft_constraints`` and
``hard_constraints`` (keep them balanced), ``moe`` (all of it in one layer).
"""
from .dispatch import dense_dispatch, sparse_dispatch
from .experts import fresh_copy
from .gates import ConvGAPGate, GAPFCGate, Gate, GateNoise
from .hard_constraints import HardConstraint, MeanImportance, RelativeImportance
from .moe import MoELayer, StepSummary, moe_layers
from .routing import Routing, top_k_routing
from .soft_constraints import ImportanceLoss, KLLoss, importance_loss, kl_loss
from .statistics import coefficient_of_variation, living_experts

__all__ = [
    'ConvGAPGate', 'GAPFCGate', 'Gate', 'GateNoise', 'HardConstraint',
    'ImportanceLoss', 'KLLoss', 'MeanImportance', 'MoELayer',
    'RelativeImportance', 'Routing', 'StepSummary', 'coefficient_of_variation',
    'dense_dispatch', 'fresh_copy', 'importance_loss', 'kl_loss',
    'living_experts', 'moe_layers', 'sparse_dispatch', 'top_k_routing'
]
