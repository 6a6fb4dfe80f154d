"""Hard constraints: rules about which experts may be selected.

Experts that were used too much are masked in training, or the selection is
biased towards the others.

Pavlitska et al. 2022, section III-C. The state is in registered buffers, so
that it is saved and resumed with the checkpoint, and it is fed with the
importance of the global batch, so that it is the same on all ranks.
"""
from typing import List, Mapping, Optional

import torch
from torch import Tensor, nn

from .checks import check_choice, check_int, check_number, fail
from .registry import Registry
from .statistics import EPS


def overused(usage: Tensor, threshold: float, keep: int) -> Tensor:
    """Which experts to mask: those with usage above the threshold.

    At least ``keep`` experts stay: when fewer would, the least used of the
    masked ones are let back in.

    Args:
        usage: (E,) how much each expert was used.
        threshold: Above it an expert is masked.
        keep: Number of experts that always stay.

    Returns:
        (E,) bool, True where masked.
    """
    masked = usage > threshold
    order = usage.masked_fill(~masked, float('-inf')).sort(stable=True).indices
    masked[order[:keep]] = False
    return masked


class HardConstraint(nn.Module):
    """State and update of a rule about which experts may be selected.

    What every forward pass used of the experts is handed to :meth:`observe`;
    :meth:`step` is called once per optimizer step and moves the state, so
    that gradient accumulation counts as the one step that it is.

    Attributes:
        observes: What the state is moved by: the ``'importance'`` of the
            experts, or their ``'load'``, the number of samples that they are
            selected for.
        lift_at: From when on it is lifted; None for never.
        lifted: Whether it is lifted; follows from the progress.
        paper_per_call: Whether the state moves once for every call and level
            of a step, in their order, rather than once for all of them.

    Args:
        num_experts: E.
        top_k: K, number of experts that always stay.
    """
    observes = 'importance'
    lift_at: Optional[Mapping[str, int]] = None
    lifted = False
    paper_per_call = False

    def __init__(self, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = check_int('top_k', top_k, 1, num_experts)
        #: What was observed since the last optimizer step, (E,) each.
        #: Gradients that are not applied yet are not saved in a checkpoint, so
        #: neither is this.
        self.pending: List[Tensor] = []

    def check(self, num_experts: int, top_k: int) -> None:
        """Refuse a constraint that could never change a selection.

        Raises:
            ValueError: See above.
        """
        if top_k == num_experts:
            fail('top_k', top_k, f'less than num_experts={num_experts} with a '
                 'hard constraint: K experts always stay')

    def progress(self, *, epoch: int, iteration: int) -> None:
        """Say how many epochs and iterations of the training are done."""
        if self.lift_at is not None:
            done = dict(epoch=epoch, iter=iteration)
            self.lifted = any(
                done[unit] >= value for unit, value in self.lift_at.items())

    def masked(self) -> Optional[Tensor]:
        """(E,) bool, the experts that may not be chosen in training now; None
        if the constraint masks nothing."""
        return None

    # not "bias": what initialises all modules of a head fills what has one
    def shift(self) -> Optional[Tensor]:
        """(E,) what is added to the logits for the selection, in training and
        in evaluation; None if the constraint adds nothing."""
        return None

    def observe(self, importance: Tensor, load: Tensor) -> None:
        """Add the global importance and load of the calls and levels of a
        forward pass, (calls, E), or of all of them together, (E,)."""
        seen = torch.atleast_2d(
            dict(importance=importance, load=load)[self.observes].detach())
        if self.paper_per_call:
            self.pending += seen.unbind()
        else:
            self.pending = [sum(self.pending) + seen.sum(dim=0)]

    def step(self) -> None:
        """Move the state by what was observed since the last step.

        Never within a step: activation checkpointing runs forward passes
        again, which must decide as before.
        """
        pending, self.pending = self.pending, []
        for observed in pending:
            if observed.sum() > 0:  # a rank may have made fewer calls
                self.update(observed)

    def update(self, observed: Tensor) -> None:
        """Move the state by what was observed (E,)."""
        raise NotImplementedError


class Mask(HardConstraint):
    """Masks experts in training; a subclass says what usage means.

    Args:
        num_experts: E.
        top_k: K, number of experts that always stay.
        threshold: Usage above which an expert is masked.
        lift_at: From when on nothing is masked any more: ``dict(epoch=8)``,
            when 8 epochs are done, or ``dict(iter=9000)``; None for never.
        paper_per_call: Move the state once for every call and level, as the
            authors' code does, rather than once per optimizer step. All moves
            are made at the step, one after the other; the authors' code makes
            them within the forward pass.
    """

    def __init__(self,
                 num_experts: int,
                 top_k: int,
                 threshold: float,
                 lift_at: Optional[Mapping[str, int]] = None,
                 paper_per_call: bool = False) -> None:
        super().__init__(num_experts, top_k)
        self.threshold = check_number('threshold', threshold)
        if lift_at is not None:
            if not isinstance(lift_at, Mapping) or len(lift_at) != 1:
                fail('lift_at', lift_at, 'dict(epoch=...) or dict(iter=...)')
            for unit, value in lift_at.items():
                check_choice('lift_at', unit, ('epoch', 'iter'))
                check_int(f'lift_at.{unit}', value, 1)
        self.lift_at = lift_at
        self.paper_per_call = check_choice('paper_per_call', paper_per_call,
                                           (False, True))

    def masked(self) -> Tensor:
        if self.lifted:
            return torch.zeros_like(self.usage(), dtype=torch.bool)
        return overused(self.usage(), self.threshold, self.top_k)

    def usage(self) -> Tensor:
        """(E,) what is compared with the threshold."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return (f'threshold={self.threshold:g}, lift_at={self.lift_at}, '
                f'paper_per_call={self.paper_per_call}')


HARD_CONSTRAINTS = Registry(HardConstraint)


@HARD_CONSTRAINTS.register
class RelativeImportance(Mask):
    """Mask e while ``R_e > threshold``; ``R_e += (I_e - mean(I)) / mean(I)``.

    A running sum over optimizer steps, with mean(I) over the experts. The
    paper uses 0.3 for RetinaNet, 0.5 for CIFAR-100.
    """

    def __init__(self,
                 num_experts: int,
                 top_k: int,
                 threshold: float = 0.3,
                 lift_at: Optional[Mapping[str, int]] = None,
                 paper_per_call: bool = False) -> None:
        super().__init__(num_experts, top_k, threshold, lift_at,
                         paper_per_call)
        self.register_buffer('relative_importance', torch.zeros(num_experts))

    def usage(self) -> Tensor:
        return self.relative_importance

    def update(self, observed: Tensor) -> None:
        mean = observed.mean().clamp_min(EPS)
        self.relative_importance += (observed - mean) / mean


@HARD_CONSTRAINTS.register
class MeanImportance(Mask):
    """Mask e while ``M_e - 1/E > threshold``, M the running mean of I / N.

    The paper uses 0.1 to 0.5.
    """

    def __init__(self,
                 num_experts: int,
                 top_k: int,
                 threshold: float = 0.1,
                 lift_at: Optional[Mapping[str, int]] = None,
                 paper_per_call: bool = False) -> None:
        super().__init__(num_experts, top_k, threshold, lift_at,
                         paper_per_call)
        self.register_buffer('mean_importance', torch.zeros(num_experts))
        self.register_buffer('steps', torch.zeros((), dtype=torch.long))

    def check(self, num_experts: int, top_k: int) -> None:
        super().check(num_experts, top_k)
        if self.threshold >= 1 - 1 / num_experts:
            fail('hard_constraint.threshold', self.threshold,
                 f'less than 1 - 1/E = {1 - 1 / num_experts:g}, what an expert '
                 'with all samples exceeds its part by')

    def usage(self) -> Tensor:
        return self.mean_importance - 1 / len(self.mean_importance)

    def update(self, observed: Tensor) -> None:
        self.steps += 1
        # The weights of a sample sum to 1, so the sum over experts is N.
        share = observed / observed.sum()
        self.mean_importance += (share - self.mean_importance) / self.steps


@HARD_CONSTRAINTS.register
class LossFreeBias(HardConstraint):
    """Add a bias to the logits for the selection, so that loads become equal.

    ``b_e += rate * sign(mean load - load_e)`` after each optimizer step. The
    weights of the selected experts are made of the logits without the bias.
    The bias stays in evaluation, so that the balance holds there as well.
    Wang et al. 2024 (arXiv 2408.15664), algorithm 1.

    Args:
        num_experts: E.
        top_k: K.
        rate: How far a bias moves in a step, in units of the logits.
        balances: What becomes equal: the ``'load'``, as in the source, or the
            ``'importance'`` (a variant of this project). With equal loads the
            weights may still be unequal.
    """

    def __init__(self, num_experts: int, top_k: int, rate: float = 1e-3,
                 balances: str = 'load') -> None:
        super().__init__(num_experts, top_k)
        self.rate = check_number('rate', rate)
        self.observes = check_choice('balances', balances,
                                     ('load', 'importance'))
        self.register_buffer('selection_bias', torch.zeros(num_experts))

    def shift(self) -> Tensor:
        return self.selection_bias

    def update(self, observed: Tensor) -> None:
        self.selection_bias += self.rate * (observed.mean() - observed).sign()

    def extra_repr(self) -> str:
        return f'rate={self.rate:g}, balances={self.observes!r}'
