"""Recorder: the decisions of a training step, and what they add up to."""
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import torch
from torch import Tensor

from .distributed import all_reduce_sum
from .routing import Routing
from .soft_constraints import SoftConstraint
from .statistics import load, weighted_sum


@dataclass(frozen=True)
class StepSummary:
    """What one layer did in one forward pass of the model, on all ranks.

    Attributes:
        losses: Weighted loss by name of the soft constraint, scalars.
        importance: (E,) mean weight over the samples; sums to 1. Each sample
            counts as ``balance_weight`` says.
        share: (E,) part of the samples that an expert has a weight for;
            sums to K at most.
        masked: (E,) part of the samples that an expert was masked for.
        changed: Part of the samples that went to other experts because of
            the mask, scalar.
        total_importance: (E,) sum of the weights, what hard constraints see.
    """
    losses: Dict[str, Tensor]
    importance: Tensor
    share: Tensor
    masked: Tensor
    changed: Tensor
    total_importance: Tensor


class _Guard:
    """Raises in the backward pass if a call was not collected by then.

    It holds no tensor: as a hook on one it would keep the graph alive.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.collected = False

    def __call__(self, gradient: Tensor) -> None:
        if not self.collected:
            raise RuntimeError(
                f'the constraints of {self.layer} are not part of this '
                'training step and would have no effect. In MMDetection add '
                "custom_hooks=[dict(type='MoEHook')] to the config; in your "
                'own loop add the losses of MoELayer.collect(). If that is '
                'done, the layer runs under activation checkpointing '
                '(with_cp=True), which cannot be combined with a constraint: '
                'switch one of the two off.')


@dataclass
class Call:
    """One call of a layer.

    Attributes:
        routing: With its graph, N samples.
        sizes: How the N samples divide into levels.
        counts: (N,) what each sample counts; None until it is known.
    """
    routing: Routing
    sizes: Sequence[int]
    counts: Optional[Tensor]


class Recorder:
    """Keeps the calls of a step until they are collected.

    Args:
        soft_constraints: The losses to make of them.
        balance_over: ``'step'``: the losses see all calls and levels
            together; ``'call'``: each level of each call on its own, then
            the mean.
    """

    def __init__(self, soft_constraints: Sequence[SoftConstraint],
                 balance_over: str) -> None:
        self.soft_constraints = soft_constraints
        self.balance_over = balance_over
        self.discard()

    def discard(self) -> None:
        """Forget all calls."""
        self.calls: List[Call] = []
        self._guards: List[_Guard] = []

    def add(self, call: Call) -> None:
        self.calls.append(call)

    def guard(self, call: Call, layer: str) -> None:
        """Make the backward pass of a call fail if it is not collected."""
        if call.routing.weights.requires_grad:
            self._guards.append(_Guard(layer))
            call.routing.weights.register_hook(self._guards[-1])

    def collect(self) -> Optional[StepSummary]:
        """Sum up over calls and ranks, and forget; None without a call."""
        calls, guards = self.calls, self._guards
        self.discard()
        if not calls:
            return None
        for guard in guards:
            guard.collected = True
        rows = [row for call in calls for row in self._rows(call)]
        widths = [len(part) for part in rows[0]]
        sums = torch.stack([torch.cat(row) for row in rows])
        sums = all_reduce_sum(sums)  # the only collective of a step
        importance, loads, masked, rest, *_ = sums.detach().sum(
            dim=0).split(widths)
        changed, samples = rest
        if self.balance_over == 'step':
            sums = sums.sum(dim=0, keepdim=True)
        _, _, _, _, *per_loss = sums.split(widths, dim=1)
        return StepSummary(
            losses={
                constraint.name: constraint(part)
                for constraint, part in zip(self.soft_constraints, per_loss)
            },
            # the weights of each sample sum to 1
            importance=importance / importance.sum().clamp_min(1e-10),
            share=loads / samples,
            masked=masked / samples,
            changed=changed / samples,
            total_importance=importance)

    def _rows(self, call: Call) -> List[List[Tensor]]:
        """The sums of a call, or of each of its levels."""
        if self.balance_over == 'step':
            return [self._sums(call.routing, call.counts)]
        return [
            self._sums(routing, counts) for routing, counts in zip(
                call.routing.split(call.sizes), call.counts.split(call.sizes))
        ]

    def _sums(self, routing: Routing, counts: Tensor) -> List[Tensor]:
        """Statistics first, then what each soft constraint sums."""
        rest = torch.stack(
            [routing.changed.sum(), routing.experts.new_tensor(len(counts))])
        return [
            weighted_sum(counts, routing.weights.detach()),
            load(routing.weights.detach()),
            routing.masked.sum(dim=0).to(counts),
            rest.to(counts),
            *(constraint.sums(routing, counts)
              for constraint in self.soft_constraints)
        ]
