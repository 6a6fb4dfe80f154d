"""Soft constraints: auxiliary losses that keep the importance balanced.

Importance is ``I_e = sum_n w[n, e]``, float32, over the global batch.
Pavlitska et al. 2022, section III-B, equations 3 to 5.
"""
from typing import Callable

import torch
from torch import Tensor

from .checks import check_number
from .statistics import squared_cv


def importance_loss(importance: Tensor) -> Tensor:
    """Squared coefficient of variation of the importance, (..., E) -> (...).

    ``Var(I) / (Mean(I)^2 + 1e-10)`` with the unbiased variance: 0 when
    balanced, E when one expert has all.
    """
    return squared_cv(importance)


def kl_loss(importance: Tensor) -> Tensor:
    """KL divergence of the importance from uniform, (..., E) -> (...).

    ``sum_e P_e log(P_e E)``, ``P = I / sum(I)``, 0 log 0 = 0: 0 when
    balanced, log E when one expert has all. 0 where there is no importance.
    """
    tiny = torch.finfo(importance.dtype).tiny
    share = importance / importance.sum(dim=-1, keepdim=True).clamp_min(tiny)
    # The clamp keeps the gradient of 0 log 0 finite: an expert that gets no
    # sample in a step is common.
    ratio = share.clamp_min(tiny) * importance.shape[-1]
    return (share * ratio.log()).sum(dim=-1)


class SoftConstraint:
    """A loss on the importance, times a weight.

    Attributes:
        name: What the loss is called in the log.
        top_k_min: Smallest K for which the loss has a gradient. With K = 1
            the only weight is the constant 1.

    Args:
        weight: Factor of the loss, at least 0.
    """
    name: str
    function: Callable[[Tensor], Tensor]
    top_k_min = 2

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = check_number('weight', weight)

    def __call__(self, importance: Tensor) -> Tensor:
        """(calls, E) -> scalar: the mean over calls, weighted."""
        return self.weight * type(self).function(importance).mean()

    def __repr__(self) -> str:
        return f'{type(self).__name__}(weight={self.weight:g})'


class ImportanceLoss(SoftConstraint):
    """See :func:`importance_loss`."""
    name = 'importance'
    function = staticmethod(importance_loss)


class KLLoss(SoftConstraint):
    """See :func:`kl_loss`."""
    name = 'kl'
    function = staticmethod(kl_loss)


SOFT_CONSTRAINTS = {'ImportanceLoss': ImportanceLoss, 'KLLoss': KLLoss}
