"""Sparse Mixture-of-Experts layers in plain torch: the method itself.

Axis letters in every shape comment: N samples (one routing decision each),
E experts, K selected experts (``top_k``), C H W channels, height and width,
B images, L pyramid levels, A entries of an input's first axis (images, or
regions of images). By default a sample is one image at one pyramid level, so
N = B * L, level by level.

The way through: ``gates`` (features -> logits), ``scopes`` and ``patch_scope``
(what a decision covers), ``routing`` (logits -> weights of the selected
experts), ``decision`` (that, and what it was about), ``dispatch`` (run the
experts; with ``plan`` who does what, ``merging`` of convolutions, ``grouped``
products, ``memory_format``), ``soft_constraints`` and ``hard_constraints``
(keep them balanced), ``moe`` (all of it in one layer), ``recorder`` (what the
decisions of a step add up to; ``padding`` does not count, ``domains`` are
told). On a trained model: ``forcing``, ``tracing``, ``pruning``; from a dense
one: ``upcycling``.
"""
from .decision import Decision, join, rows_at
from .dispatch import RememberingDispatch, dense_dispatch, sparse_dispatch
from .domains import DatasetLoss, domains_are
from .experts import (
    BothOutcomes,
    FeedForward,
    Parallel,
    fresh_copy,
    logits_of,
    receptive_radius,
)
from .fixed_gates import KMeansGate
from .forcing import force, forced, match_layers
from .gates import GATES, Gate, GateNoise
from .hard_constraints import (
    HARD_CONSTRAINTS,
    HardConstraint,
    LossFreeBias,
    MeanImportance,
    RelativeImportance,
)
from .moe import MoELayer, moe_layers
from .padding import real_tokens_are
from .patch_scope import PatchScope
from .pruning import prune, prune_state
from .recorder import StepSummary, collect
from .routing import Forcing, Routing, top_k_routing
from .scopes import SCOPES, Scope
from .soft_constraints import SOFT_CONSTRAINTS, SoftConstraint
from .statistics import (
    coefficient_of_variation,
    living_experts,
    split_usage,
    usage_sums,
)
from .tracing import traced
from .upcycling import UpcyclingReport, add_noise, upcycle

__all__ = [
    'GATES', 'HARD_CONSTRAINTS', 'SCOPES', 'SOFT_CONSTRAINTS', 'BothOutcomes',
    'DatasetLoss', 'Decision', 'FeedForward', 'Forcing', 'Gate', 'GateNoise',
    'HardConstraint', 'KMeansGate', 'LossFreeBias', 'MeanImportance',
    'MoELayer', 'Parallel', 'PatchScope', 'RelativeImportance',
    'RememberingDispatch', 'Routing', 'Scope', 'SoftConstraint', 'StepSummary',
    'UpcyclingReport', 'add_noise', 'coefficient_of_variation', 'collect',
    'dense_dispatch', 'domains_are', 'force', 'forced', 'fresh_copy', 'join',
    'living_experts', 'logits_of', 'match_layers', 'moe_layers', 'prune',
    'prune_state', 'real_tokens_are', 'receptive_radius', 'rows_at',
    'sparse_dispatch', 'split_usage', 'top_k_routing', 'traced', 'upcycle',
    'usage_sums'
]
