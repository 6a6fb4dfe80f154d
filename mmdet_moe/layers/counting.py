"""What each sample counts in the balance of the experts, and its domain."""
from typing import Optional, Sequence, Tuple

import torch
from torch import Tensor

from .padding import Images, real_positions, real_tokens
from .scopes import Levels, Scope, Shape
from .soft_constraints import SoftConstraint


def count_samples(scope: Scope, shapes: Sequence[Shape], weight: str,
                  device: torch.device, images: Optional[Images] = None
                  ) -> Tuple[Optional[Tensor], Tensor]:
    """What the samples count before anything is known about targets.

    Args:
        scope: What one decision covers.
        shapes: Of the L inputs.
        weight: ``balance_weight`` of the layer.
        device: Of the results.
        images: Those of a padded batch.

    Returns:
        counts: (N,); None for ``'foreground'``, as :func:`count_positions`
            has to follow.
        real: (N,) 1, or 0 for a sample that is only padding.
    """
    areas = []
    for shape in shapes:
        mask = real_tokens(shape)
        if mask is None:
            mask = real_positions(images, shape)
        areas.append(torch.ones(shape, device=device) if mask is None else
                     mask.to(device, torch.float32))
    area = scope.total(areas)
    real = (area > 0).to(area)
    if weight == 'foreground':
        return None, real
    return (area if weight == 'area' else real), real


def count_positions(scope: Scope, shapes: Sequence[Shape],
                    maps: Levels) -> Tensor:
    """What the samples count, from what each of their positions does.

    Args:
        scope: What one decision covers.
        shapes: Of the L inputs.
        maps: L tensors (B, H_l * W_l) or (B, H_l, W_l); or (B, 1), for all
            positions of an entry alike.

    Returns:
        (N,).
    """
    return scope.total([
        m.float().flatten(1).expand(-1, torch.Size(
            shape[1:]).numel()).reshape(shape)
        for m, shape in zip(maps, shapes)
    ])


def domains_of(scope: Scope, shapes: Sequence[Shape],
               constraints: Sequence[SoftConstraint], real: Tensor) -> Tensor:
    """(N,) int64, the domains of the samples as the constraint numbers them
    that needs them; zeros if none does. On the device of ``real`` (N,)."""
    for constraint in constraints:
        if constraint.needs_domains:
            numbers = constraint.numbers(shapes[0][0])
            return numbers[scope.entries(shapes)].to(real.device)
    return torch.zeros_like(real, dtype=torch.long)
