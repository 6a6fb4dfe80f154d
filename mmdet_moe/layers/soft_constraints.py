"""Soft constraints: auxiliary losses that keep the experts balanced.

Each is a function of sums over the samples, so that a step may consist of
several calls, levels and ranks: first the sums, then the loss. Importance is
``I_e = sum_n w[n, e]``, float32, over the global batch. Where a sample counts
c_n times (``balance_weight``), every sum is weighted by c_n.

Importance and KL loss: Pavlitska et al. 2022, section III-B, equations 3 to 5.
"""
from typing import Optional, Sequence, Tuple, Union

import torch
from torch import Tensor

from .checks import check_number, fail
from .registry import Registry
from .routing import Routing
from .statistics import squared_cv, weighted_sum


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
    share = _shares(importance)
    # The clamp keeps the gradient of 0 log 0 finite: an expert that gets no
    # sample in a step is common.
    ratio = share.clamp_min(tiny) * importance.shape[-1]
    return (share * ratio.log()).sum(dim=-1)


def selection_probability(routing: Routing) -> Tensor:
    """Probability that an expert would be selected in another draw of noise.

    ``Phi((clean_e - kth largest of the others' noisy logits) / scale_e)``:
    Shazeer et al. 2017, equations 8 and 9. Masked experts have 0.

    Args:
        routing: With noise, and with K < E.

    Returns:
        (N, E).
    """
    top_k = routing.experts.shape[1]
    clean = routing.logits - routing.noise
    noisy = routing.logits.masked_fill(routing.masked, float('-inf'))
    ranked = noisy.sort(dim=-1, descending=True).values
    # What an expert has to exceed: the K-th of the others is the K-th of all
    # for those that are not selected, and the (K+1)-th for those that are.
    selected = torch.zeros_like(routing.masked).scatter(
        -1, routing.experts, True)
    limit = torch.where(selected, ranked[:, top_k:top_k + 1],
                        ranked[:, top_k - 1:top_k])
    # Where masks leave K experts the limit is -inf; this keeps its gradient
    # finite, and the probability 1.
    z = (clean - limit.clamp_min(-1e4)) / routing.noise_scale
    probability = torch.special.ndtr(z.clamp(-30, 30))
    return probability.masked_fill(routing.masked, 0)


def switch_loss(selected: Tensor, probability: Tensor) -> Tensor:
    """``E sum_e f_e P_e``, (..., E) twice -> (...): 1 when balanced.

    f is the fraction of the selections that went to e, P the mean of the
    softmax over all logits; only P has a gradient. Fedus et al. 2021
    (arXiv 2101.03961), equations 4 to 6, there for K = 1.
    """
    experts = selected.shape[-1]
    return experts * (_shares(selected) * _shares(probability)).sum(dim=-1)


def entropy_loss(probability: Tensor) -> Tensor:
    """``log E - H(P)``, (..., E) -> (...), P the mean softmax over all logits.

    0 when balanced, log E when collapsed. Unlike the KL loss it sees the
    softmax before the selection, so that experts that are not selected have
    a gradient, also with K = 1. (An entropy loss is named in arXiv
    2604.13761; this is the form that acts on the balance.)
    """
    return kl_loss(probability)


def variance_loss(weight: Tensor, square: Tensor, count: Tensor) -> Tensor:
    """``1 - sum_e Var_n(w[n, e])``, (..., E), (..., E), (...) -> (...).

    Specialisation: it is least where the weights differ most from sample to
    sample; it does not keep the experts balanced. After the variance loss
    of Guo et al. 2025 (arXiv 2505.22323); the constant 1 keeps it from being
    negative.

    Args:
        weight: Sum of the weights.
        square: Sum of their squares.
        count: Number of samples.
    """
    count = count.clamp_min(1e-10)[..., None]
    variance = square / count - (weight / count)**2
    return 1 - variance.sum(dim=-1)


class SoftConstraint:
    """A loss on sums over the samples, times a weight.

    Attributes:
        name: What the loss is called in the log.
        top_k_min: Smallest K for which the loss has a gradient. With K = 1
            the only weight is the constant 1.
        needs_noise: Whether the loss is defined with gate noise only.
        trains_gate: Whether it tells the gate which experts to choose, so
            that it is enough to train one with K = 1.
        needs_domains: Whether :meth:`sums` asks for the domains of the
            samples.
        names_experts: Whether its options name experts by their numbers, so
            that none can be pruned.

    Args:
        weight: Factor of the loss, at least 0.
    """
    name: str
    top_k_min = 1
    needs_noise = False
    trains_gate = True
    needs_domains = False
    names_experts = False

    def __init__(self, weight: float = 0.5) -> None:
        self.weight = check_number('weight', weight)

    def check(self, num_experts: int) -> None:
        """Refuse options that do not fit a layer of E experts.

        Raises:
            ValueError: See above.
        """

    def numbers(self, entries: int) -> Tensor:
        """The domains of the entries of a call, as :meth:`sums` takes them."""
        raise NotImplementedError

    def sums(self, routing: Routing, counts: Tensor,
             domain: Optional[Tensor] = None) -> Tensor:
        """What is summed over the samples.

        Args:
            routing: N samples.
            counts: (N,) what each sample counts.
            domain: (N,) int64, as :meth:`numbers` gives them, for a loss that
                needs them.

        Returns:
            (F,) any number of sums.
        """
        raise NotImplementedError

    def loss(self, sums: Tensor) -> Tensor:
        """The loss of the sums, (..., F) -> (...), without the weight."""
        raise NotImplementedError

    def __call__(self, sums: Tensor) -> Tensor:
        """(calls, F) -> scalar: the mean over calls, weighted."""
        return self.weight * self.loss(sums).mean()

    def __repr__(self) -> str:
        return f'{type(self).__name__}(weight={self.weight:g})'


SOFT_CONSTRAINTS = Registry(SoftConstraint)


@SOFT_CONSTRAINTS.register
class ImportanceLoss(SoftConstraint):
    """See :func:`importance_loss`."""
    name = 'importance'
    top_k_min = 2

    def sums(self, routing, counts, domain=None):
        return weighted_sum(counts, routing.weights)

    def loss(self, sums):
        return importance_loss(sums)


@SOFT_CONSTRAINTS.register
class KLLoss(SoftConstraint):
    """See :func:`kl_loss`."""
    name = 'kl'
    top_k_min = 2

    def sums(self, routing, counts, domain=None):
        return weighted_sum(counts, routing.weights)

    def loss(self, sums):
        return kl_loss(sums)


@SOFT_CONSTRAINTS.register
class LoadLoss(SoftConstraint):
    """Squared CV of a smooth estimate of the load, which noise makes smooth.

    See :func:`selection_probability`; Shazeer et al. 2017, equations 10, 11.
    """
    name = 'load'
    needs_noise = True

    def sums(self, routing, counts, domain=None):
        return weighted_sum(counts, selection_probability(routing))

    def loss(self, sums):
        return squared_cv(sums)


@SOFT_CONSTRAINTS.register
class SwitchLoss(SoftConstraint):
    """See :func:`switch_loss`."""
    name = 'switch'

    def sums(self, routing, counts, domain=None):
        selected = torch.zeros_like(routing.logits).scatter(
            -1, routing.experts, 1.0)
        return torch.cat([
            weighted_sum(counts, selected),
            weighted_sum(counts, routing.logits.softmax(dim=-1))
        ])

    def loss(self, sums):
        return switch_loss(*sums.chunk(2, dim=-1))


@SOFT_CONSTRAINTS.register
class EntropyLoss(SoftConstraint):
    """See :func:`entropy_loss`."""
    name = 'entropy'

    def sums(self, routing, counts, domain=None):
        return weighted_sum(counts, routing.logits.softmax(dim=-1))

    def loss(self, sums):
        return entropy_loss(sums)


@SOFT_CONSTRAINTS.register
class RouterZLoss(SoftConstraint):
    """``mean_n (log sum_e exp g[n, e])^2``: keeps the logits small.

    It does not keep the experts balanced. Zoph et al. 2022, ST-MoE
    (arXiv 2202.08906), equation 5, there with a weight of 0.001.
    """
    name = 'z'
    trains_gate = False

    def __init__(self, weight: float = 1e-3) -> None:
        super().__init__(weight)

    def sums(self, routing, counts, domain=None):
        squares = routing.logits.logsumexp(dim=-1)**2
        return torch.stack([weighted_sum(counts, squares), counts.sum()])

    def loss(self, sums):
        return sums[..., 0] / sums[..., 1].clamp_min(1e-10)


@SOFT_CONSTRAINTS.register
class VarianceLoss(SoftConstraint):
    """See :func:`variance_loss`."""
    name = 'variance'
    top_k_min = 2
    trains_gate = False

    def sums(self, routing, counts, domain=None):
        return torch.cat([
            weighted_sum(counts, routing.weights),
            weighted_sum(counts, routing.weights**2),
            counts.sum()[None]
        ])

    def loss(self, sums):
        weight, square = sums[..., :-1].chunk(2, dim=-1)
        return variance_loss(weight, square, sums[..., -1])


def _shares(sums: Tensor) -> Tensor:
    """(..., E) -> the same, adding up to 1; zeros where all are 0."""
    total = sums.sum(dim=-1, keepdim=True)
    # Not a tiny number in its place: the gradient would be infinite.
    return sums / torch.where(total > 0, total, 1)


def build_soft_constraints(
        cfgs: Union[dict, Sequence[dict], None]) -> Tuple[SoftConstraint, ...]:
    """Those of a layer.

    Args:
        cfgs: ``type`` and arguments of one, a sequence of these, or None.

    Raises:
        ValueError: A value is not allowed, or there are two of a type.
    """
    if cfgs is None:
        return ()
    if isinstance(cfgs, (list, tuple)):
        keyed = {f'soft_constraint[{i}]': c for i, c in enumerate(cfgs)}
    else:
        keyed = {'soft_constraint': cfgs}
    constraints = tuple(
        SOFT_CONSTRAINTS.build(key, cfg) for key, cfg in keyed.items())
    names = [constraint.name for constraint in constraints]
    if len(set(names)) < len(names):
        fail('soft_constraint', cfgs, 'each type once')
    return constraints
