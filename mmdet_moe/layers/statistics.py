"""What is counted of a routing.

Importance of an expert: the sum of its weights over the samples. Share: the
part of the samples that it was selected for.
"""
from torch import Tensor

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
