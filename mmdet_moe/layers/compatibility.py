"""What does not go together: options that are allowed each, but not both."""
from typing import Optional

from torch import nn

from .checks import fail


def check_options(layer: nn.Module, *, whole_pyramid: bool,
                  targets: bool) -> None:
    """Check the options of a :class:`MoELayer` against each other, and against
    what the caller of the layer can do.

    Args:
        layer: Without its experts yet.
        whole_pyramid: Whether it is called once for all levels.
        targets: Whether the caller says which positions are foreground.

    Raises:
        ValueError: Two of them contradict; names both and what to change.
    """
    if not (layer.scope.repeatable or whole_pyramid):
        fail('scope', layer.scope, "dict(type='LevelScope') or "
             "dict(type='PatchScope') here: the layer is called for one level "
             'at a time')
    if layer.balance_weight == 'foreground' and not targets:
        fail('balance_weight', 'foreground',
             "'sample' or 'area' here: only a head that tells which anchors or "
             'regions are positive knows what is foreground')
    if layer.scope.sees_rows and not layer.gate.takes_rows:
        fail('gate.type', type(layer.gate).__name__,
             f"'GAPFCGate', or another gate that takes rows, with "
             f'scope={layer.scope!r}')
    hard = layer.hard_constraint
    kind = type(layer.gate).__name__
    if not layer.gate.learned and layer.noise is not None:
        fail('noise', True, f'False with the static gate {kind}')
    for key, given, possible in (
            ('soft_constraint', layer.soft_constraints, layer.gate.learned),
            ('hard_constraint', hard, layer.gate.looks)):
        if given and not possible:
            fail(key, given, f'None with the static gate {kind}')
    for soft in layer.soft_constraints:
        soft.check(layer.num_experts)
        if layer.top_k < soft.top_k_min and layer.num_experts > 1:
            fail('top_k', layer.top_k,
                 f'at least {soft.top_k_min} with the soft constraint '
                 f'{soft!r}: with one expert per sample its weight is '
                 'always 1, and the loss has no gradient')
        if soft.needs_noise and layer.noise is None:
            fail('noise', False, f'True with the soft constraint {soft!r}')
        if soft.needs_noise and layer.top_k == layer.num_experts:
            fail('top_k', layer.top_k,
                 f'less than num_experts={layer.num_experts} with the soft '
                 f'constraint {soft!r}: every expert is always selected')
        if soft.needs_noise and hard is not None and hard.shift() is not None:
            fail('hard_constraint', type(hard).__name__,
                 f'one that masks with the soft constraint {soft!r}, which '
                 'does not know of a bias')
    if hard is not None:
        hard.check(layer.num_experts, layer.top_k)


def check_experts(experts: nn.ModuleList, in_channels: int) -> None:
    """Check that the experts can be experts of this layer.

    Raises:
        ValueError: They take another number of channels than the gate, or
            have experts themselves.
    """
    for module in experts.modules():
        # An inner layer is idle where its expert is, on one rank and not on
        # another, and both could not agree on its importance.
        if hasattr(module, 'experts'):
            fail('expert', type(module).__name__,
                 'a module without MoE layers; put experts into the module '
                 'or into its parts, not into both')
    for module in experts[0].modules():
        if any(True for _ in module.children()):
            continue
        # The first module of all is what the features go into.
        channels = getattr(module, 'in_channels',
                           getattr(module, 'in_features', None))
        if channels not in (None, in_channels):
            fail('in_channels', in_channels,
                 f'{channels}, what the experts take')
        return


def check_collectives(experts: nn.ModuleList) -> None:
    """Refuse SyncBatchNorm in an expert."""
    reason = synchronised(experts)
    if reason is not None:
        fail('norm', 'SyncBN', f'GN or BN in experts: {reason}')


def synchronised(module: nn.Module) -> Optional[str]:
    """Why a module cannot be an expert if SyncBatchNorm is in it, which waits
    for the other ranks at every call; None if there is none."""
    # By name: other libraries have a class of their own.
    if any(type(part).__name__ == 'SyncBatchNorm'
           for part in module.modules()):
        return ('with SyncBatchNorm, ranks that run different experts would '
                'wait for each other forever')
    return None
