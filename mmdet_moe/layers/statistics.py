"""What is counted of a routing.

Importance of an expert: the sum of its weights over the samples. Share: the
part of the samples that it was selected for.
"""
import math
from typing import TYPE_CHECKING, List, Optional, Tuple, Union

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

EPS = 1e-10
#: Input-dependence below this part of log2 E is none.
NEGLIGIBLE = 0.01


def weighted_sum(counts: Tensor, values: Tensor) -> Tensor:
    """Sum over the samples, each counted so many times.

    Args:
        counts: (N,) float32.
        values: (N, ...) float32.
    """
    # Not a matrix product: autocast would round that to half precision.
    shape = counts.shape + (1, ) * (values.dim() - 1)
    return (counts.view(shape) * values).sum(dim=0)


def squared_cv(x: Tensor) -> Tensor:
    """Squared coefficient of variation of (..., E), unbiased variance.

    ``Var / (Mean^2 + 1e-10)``; 0 for a single entry. Its maximum, one entry
    having all, is E.
    """
    if x.shape[-1] == 1:
        return x.sum(dim=-1) * 0
    return x.var(dim=-1, unbiased=True) / (x.mean(dim=-1)**2 + EPS)


def coefficient_of_variation(x: Tensor) -> Tensor:
    """Standard deviation over mean of (..., E), see :func:`squared_cv`."""
    return squared_cv(x).sqrt()


def living_experts(share: Tensor) -> int:
    """How many of (E,) experts have a share above zero."""
    return int((share > 0).sum())


def signs_of_collapse(bits: float, living: int, experts: int,
                      top_k: int) -> List[str]:
    """Why a gate that has learned to choose has collapsed; empty if not.

    Args:
        bits: Its input-dependence, H(mean w) - mean H(w).
        living: Experts in use.
        experts: E.
        top_k: K, less than E.
    """
    most, signs = math.log2(experts), []
    if bits < NEGLIGIBLE * most:
        signs.append('its decisions do not depend on the input '
                     f'({bits:.3f} of {most:.3g} bits)')
    if living <= top_k:
        signs.append(f'{living} of {experts} experts are in use, and '
                     f'top_k={top_k}')
    return signs


def usage_sums(weights: Tensor, places: Optional[Tensor] = None,
               number: int = 1) -> Tensor:
    """What decisions add up to, so that they need not be kept.

    Args:
        weights: (N, E) expert weights.
        places: (N,) which of the places each is about; all one if None.
        number: P, of places.

    Returns:
        (P, 2 + 2E) float64, as :func:`split_usage` reads it.
    """
    if places is None:
        places = torch.zeros(len(weights), dtype=torch.long)
    rows = torch.cat([
        torch.ones_like(weights[:, :1]),
        entropy_bits(weights)[:, None], weights, (weights > 0).to(weights)
    ], dim=1).double()
    return rows.new_zeros(number, rows.shape[1]).index_add_(
        0, places.to(rows.device), rows)


def split_usage(sums: Union[Tensor, 'np.ndarray']) -> Tuple:
    """(..., 2 + 2E), a tensor or an array -> the number of decisions (...),
    the sum of their entropies in bits (...), and by expert the sum of its
    weights, and the number of decisions that selected it (..., E)."""
    experts = sums.shape[-1] // 2 - 1
    return (sums[..., 0], sums[..., 1], sums[..., 2:2 + experts],
            sums[..., 2 + experts:])


def entropy_bits(p: Tensor) -> Tensor:
    """Entropy along the last axis; 0 log 0 = 0."""
    return torch.special.entr(p).sum(dim=-1) / math.log(2)
