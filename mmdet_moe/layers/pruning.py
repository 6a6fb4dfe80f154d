"""Pruning: a layer without some of its experts, for good."""
from typing import Dict, List, Sequence

import torch
from torch import Tensor, nn

from .checks import check_int, fail
from .moe import MoELayer


def prune(layer: MoELayer, keep: Sequence[int], key: str = 'keep') -> None:
    """Take experts out of a layer.

    In evaluation the layer is what it was with the others dropped (see
    :func:`.force`): the gate has no logits for them, so that the weights of
    those that are left sum to 1. The experts are numbered anew, in order.

    Args:
        layer: Is changed.
        keep: The experts that stay, at least K.
        key: Where they are said, for the messages.

    Raises:
        ValueError: There is no such expert, or too few are left.
    """
    keep = check_kept(key, layer, keep)
    rows = torch.tensor(keep)
    for module, names in per_expert(layer):
        for name in names:
            value = getattr(module, name)
            kept = value.detach()[rows.to(value.device)].clone()
            if isinstance(value, nn.Parameter):
                setattr(module, name, nn.Parameter(kept, value.requires_grad))
            else:
                setattr(module, name, kept)
    layer.gate.num_experts = layer.num_experts = len(keep)
    layer.experts = nn.ModuleList(layer.experts[e] for e in keep)


def check_kept(key: str, layer: MoELayer, keep: Sequence[int]) -> List[int]:
    """Return ``keep`` in order if a layer can be left with these experts.

    Args:
        key: Of the experts in a message, with the layer.
        layer: With all experts.
        keep: The experts that stay.

    Raises:
        ValueError: There is no such expert, too few are left, or a constraint
            or gate names experts by their numbers.
    """
    keep = sorted({check_int(key, e, 0, layer.num_experts - 1) for e in keep})
    if len(keep) < layer.top_k:
        fail(key, keep, f'at least top_k={layer.top_k} experts, which each '
             'sample needs')
    if not hasattr(layer.gate, 'per_expert'):
        fail('gate.type', type(layer.gate).__name__,
             'a gate that can do with fewer experts; this one has no '
             'per_expert')
    for soft in layer.soft_constraints:
        if soft.names_experts:
            fail('soft_constraint', soft, 'one that does not name experts by '
                 'their numbers; remove it from the config before pruning')
    return keep


def per_expert(layer: MoELayer) -> list:
    """The modules of a layer that have tensors with a row for each expert,
    and the names of these: gate, noise, hard constraint."""
    found = [(layer.gate, layer.gate.per_expert)]
    if layer.noise is not None:
        found.append((layer.noise, layer.noise.per_expert))
    if layer.hard_constraint is not None:
        found.append((layer.hard_constraint, [
            name for name, buffer in layer.hard_constraint.named_buffers()
            if buffer.dim() == 1
        ]))
    return found


def prune_state(state: Dict[str, Tensor], name: str, layer: MoELayer,
                keep: Sequence[int]) -> Dict[str, Tensor]:
    """A model's state without some experts of one of its layers.

    Args:
        state: Of the model with all experts, or what an optimizer keeps of
            its parameters, by their names; left as it is.
        name: Of the layer in the model.
        layer: With all experts.
        keep: As of :func:`prune`.

    Returns:
        What :func:`prune` leaves of the model has such a state.
    """
    keep = check_kept(f'{name}: keep', layer, keep)
    prefix = f'{name}.' if name else ''
    number = {str(e): str(i) for i, e in enumerate(keep)}
    rows = {
        prefix + ('' if module is layer else f'{part}.') + tensor
        for part, module in layer.named_modules()
        for other, names in per_expert(layer) if other is module
        for tensor in names
    }
    pruned = {}
    for key, value in state.items():
        if key.startswith(f'{prefix}experts.'):
            e, rest = key[len(prefix) + len('experts.'):].split('.', 1)
            if e in number:
                pruned[f'{prefix}experts.{number[e]}.{rest}'] = value
        else:  # a value without rows is a count of an optimizer's steps
            pruned[key] = (value[torch.tensor(keep)]
                           if key in rows and value.dim() else value)
    return pruned
