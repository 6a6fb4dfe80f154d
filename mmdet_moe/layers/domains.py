"""Domains: which data set the pictures of a batch come from.

A layer is given features and no data samples. Whoever knows the domains says
so around the call; a constraint that needs them asks.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Iterator, Mapping, Optional, Sequence

import torch
from torch import Tensor

from .checks import check_int, fail
from .soft_constraints import SOFT_CONSTRAINTS, SoftConstraint
from .statistics import weighted_sum

_DOMAINS: ContextVar[Optional[Sequence[str]]] = ContextVar(
    'domains', default=None)


@contextmanager
def domains_are(names: Optional[Sequence[str]]) -> Iterator[None]:
    """Say of which domain each picture is, for the layers called inside.

    Args:
        names: B names; None if they are not known.
    """
    before = _DOMAINS.set(names)
    try:
        yield
    finally:
        _DOMAINS.reset(before)


def domains() -> Optional[Sequence[str]]:
    """The B names; None if nobody said."""
    return _DOMAINS.get()


@SOFT_CONSTRAINTS.register
class DatasetLoss(SoftConstraint):
    """Send each domain to the experts that are assigned to it.

    ``-log sum_e P(e)`` over the experts e that are assigned to the domain of
    the sample's picture, P the softmax over all logits, mean over the samples.
    Supervised: an upper reference for gates that find domains by themselves.
    It does not keep the experts balanced. DAMEX (Jain et al., NeurIPS 2023),
    there with one expert for each data set.

    Args:
        experts: By the name of a domain, its expert, or several of them.
        weight: Factor of the loss, at least 0.
    """
    name = 'dataset'
    needs_domains = names_experts = True

    def __init__(self, experts: Mapping, weight: float = 0.1) -> None:
        super().__init__(weight)
        if not isinstance(experts, Mapping) or not experts:
            fail('experts', experts, 'a dict from the names of domains to '
                 'experts')
        self.experts = {
            name: own if isinstance(own, (list, tuple)) else (own, )
            for name, own in experts.items()
        }
        for name, own in self.experts.items():
            if not own:
                fail(f'experts.{name}', own, 'an expert, or several')
            for e in own:
                check_int(f'experts.{name}', e, 0)

    def check(self, num_experts: int) -> None:
        """Refuse an expert that the layer does not have."""
        for name, own in self.experts.items():
            for e in own:
                check_int(f'experts.{name}', e, 0, num_experts - 1)

    def numbers(self, entries: int) -> Tensor:
        """The domains of the entries of a call, as numbers in ``experts``.

        Raises:
            RuntimeError: The domains are not known, or not of these entries.
            ValueError: No expert is assigned to a domain.
        """
        names = domains()
        if names is None or len(names) != entries:
            raise RuntimeError(
                'DatasetLoss: the layer decides about ' + (
                    'pictures whose domains are not known; say them with '
                    'domains_are' if names is None else
                    f'{entries} things, and there are {len(names)} pictures'))
        known = list(self.experts)
        for name in names:
            if name not in known:
                fail('experts', known, f'one that has the domain {name!r}')
        return torch.tensor([known.index(name) for name in names])

    def sums(self, routing, counts, domain=None):
        """With ``domain`` (N,), numbers in ``experts``."""
        assigned = routing.logits.new_zeros(
            len(self.experts), routing.logits.shape[1], dtype=torch.bool)
        for row, own in enumerate(self.experts.values()):
            assigned[row, list(own)] = True
        likelihood = routing.logits.log_softmax(dim=-1).masked_fill(
            ~assigned[domain], float('-inf')).logsumexp(dim=-1)
        return torch.stack([weighted_sum(counts, -likelihood), counts.sum()])

    def loss(self, sums):
        surprise, count = sums.unbind(-1)
        return surprise / count.clamp_min(1e-10)
