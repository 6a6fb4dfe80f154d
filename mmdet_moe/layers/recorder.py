"""Recorder: the decisions of a training step, and what they add up to."""
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .decision import Decision
from .distributed import all_reduce_max, all_reduce_sum, world_size
from .routing import Routing
from .soft_constraints import SoftConstraint
from .statistics import weighted_sum


@dataclass(frozen=True)
class StepSummary:
    """What one layer did in one forward pass of the model, on all ranks.

    Attributes:
        losses: Weighted loss by name of the soft constraint, scalars.
        importance: (E,) mean weight over the samples; sums to 1.
        share: (E,) part of the samples that an expert has a weight for;
            sums to K at most.
        masked: (E,) part of the samples that an expert was masked for.
        changed: Part of the samples that went to other experts because of
            the mask, scalar.
        total_importance: (E,) sum of the weights, what masks see.
        total_load: (E,) sum of the samples that an expert is selected for,
            what a selection bias sees. In both, and in the importance, each
            sample counts as ``balance_weight`` says.
        busy: (E,) number of the samples that an expert was run on, padding
            included.
    """
    losses: Dict[str, Tensor]
    importance: Tensor
    share: Tensor
    masked: Tensor
    changed: Tensor
    total_importance: Tensor
    total_load: Tensor
    busy: Tensor


class _Guard:
    """Hook on the weights of a call: raises in the backward pass if the call
    was not collected by then.

    It holds no tensor, since a hook on a tensor would keep its graph alive.
    """

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.collected = False

    def __call__(self, gradient: Tensor) -> None:
        if not self.collected:
            raise _not_collected(self.layer)


def _not_collected(layer: str) -> RuntimeError:
    return RuntimeError(
        f'the constraints of {layer} are not part of this training step and '
        "would have no effect. In a config add the hook dict(type='MoEHook'); "
        'in your own loop add the losses of MoELayer.collect(). If that is '
        'done, the '
        'layer runs under reentrant activation checkpointing, as with_cp=True '
        'has it, which cannot be combined with a constraint: switch one of the '
        'two off, or use checkpoint(..., use_reentrant=False).')


@dataclass
class Call:
    """One call of a layer.

    Attributes:
        decision: With its graph, N samples.
        counts: (N,) what each sample counts; None until it is known.
        real: (N,) 1, or 0 for a sample that is only padding.
        domain: (N,) int64, as a constraint numbers the domains; zeros if none
            needs them.
    """
    decision: Decision
    counts: Optional[Tensor]
    real: Tensor
    domain: Tensor

    def parts(self, by_level: bool
              ) -> List[Tuple[Routing, Tensor, Tensor, Tensor]]:
        """Routing, counts, what is real, and the domain: of the call, or of
        each level."""
        decision = self.decision
        sizes = (
            decision.scope.sizes(decision.shapes)
            if by_level else [len(self.real)])
        return list(
            zip(decision.routing.split(sizes), self.counts.split(sizes),
                self.real.split(sizes), self.domain.split(sizes)))


class Recorder:
    """Keeps the calls of a step until they are collected.

    Args:
        soft_constraints: The losses to make of them.
        balance_over: ``'step'``: the losses see all calls and levels
            together; ``'call'``: each level of each call on its own, then
            the mean.
        by_call: Whether the usage of each level of each call is needed, too.
    """

    def __init__(self, soft_constraints: Sequence[SoftConstraint],
                 balance_over: str, by_call: bool = False) -> None:
        self.soft_constraints = soft_constraints
        self.balance_over = balance_over
        self.by_call = by_call or balance_over == 'call'
        self._recomputable = False
        self.discard()

    def discard(self) -> None:
        """Forget all calls."""
        self.calls: List[Call] = []
        self._guards: List[_Guard] = []

    def add(self, call: Call, *, guarded: bool, layer: str) -> None:
        """Keep a call.

        Args:
            call: The call.
            guarded: Whether its backward pass is to fail if it is not
                collected by then.
            layer: What the layer is called in the message.
        """
        if in_backward():
            # Activation checkpointing runs the layer once more. The call is
            # recorded already, unless the forward pass had no gradients.
            if guarded and not self._recomputable:
                raise _not_collected(layer)
            return
        self._recomputable = False
        self.calls.append(call)
        weights = call.decision.weights
        if guarded and weights.requires_grad:
            self._guards.append(_Guard(layer))
            weights.register_hook(self._guards[-1])

    def take(self) -> List[Call]:
        """Return the calls, mark them as collected and forget them."""
        calls, guards = self.calls, self._guards
        for guard in guards:
            guard.collected = True
        self._recomputable = bool(calls)
        self.discard()
        return calls

    def rows(self, calls: Sequence[Call], nothing: Routing) -> Tensor:
        """What is summed over the ranks.

        Args:
            calls: Those of the step; a rank may have none.
            nothing: A routing of 0 samples, which tells the number of columns.

        Returns:
            (R, F), a row for the step, or for each level of each call. The
            first column is the number of parts that a row is the sum of; a
            rank without a call has one row of zeros.
        """
        rows = [
            torch.cat(self._sums(*part)) for call in calls
            for part in call.parts(by_level=self.by_call)
        ]
        if not rows:
            return nothing.weights.new_zeros(1, sum(self._widths(nothing)))
        stacked = torch.stack(rows)
        return stacked if self.by_call else stacked.sum(dim=0, keepdim=True)

    def summary(self, rows: Tensor, nothing: Routing) -> StepSummary:
        """Losses and statistics of rows (R, F) that are summed over ranks."""
        widths = self._widths(nothing)
        per_loss = (rows if self.balance_over == 'call' else rows.sum(
            dim=0, keepdim=True)).split(widths, dim=1)[_STATISTICS:]
        (_, samples, changed, importance, total_load, loads, masked,
         busy) = rows.detach().sum(dim=0).split(widths)[:_STATISTICS]
        samples = samples.clamp_min(1)
        return StepSummary(
            losses={
                constraint.name: constraint(part)
                for constraint, part in zip(self.soft_constraints, per_loss)
            },
            # The weights of each sample sum to 1.
            importance=importance / importance.sum().clamp_min(1e-10),
            share=loads / samples,
            masked=masked / samples,
            changed=(changed / samples).squeeze(),
            total_importance=importance,
            total_load=total_load,
            busy=busy)

    def usage(self, rows: Tensor, nothing: Routing) -> Tuple[Tensor, Tensor]:
        """Importance and load of the same rows (R, F): (R, E) each."""
        return rows.split(self._widths(nothing), dim=1)[3:5]

    def _sums(self, routing: Routing, counts: Tensor, real: Tensor,
              domain: Tensor) -> List[Tensor]:
        """The statistics, then what each soft constraint sums."""
        weights = routing.weights.detach()
        selected = (weights != 0).to(real)
        return [
            real.new_ones(1),
            real.sum(dim=0, keepdim=True),
            weighted_sum(real, routing.changed[:, None].to(real)),
            weighted_sum(counts, weights),
            weighted_sum(counts, selected),
            weighted_sum(real, selected),
            weighted_sum(real, routing.masked.to(real)),
            selected.sum(dim=0),
            *(constraint.sums(routing, counts, domain)
              for constraint in self.soft_constraints)
        ]

    def _widths(self, nothing: Routing) -> List[int]:
        """How many columns each of the sums has."""
        none = nothing.weights.new_zeros(0)
        return [
            len(part)
            for part in self._sums(nothing, none, none, none.long())
        ]


#: How many of the sums are statistics, and belong to no soft constraint.
_STATISTICS = 8


def collect(layers: Mapping[str, nn.Module]
            ) -> Dict[str, Optional[StepSummary]]:
    """Losses and statistics of a step of several MoE layers, over all ranks.

    One collective serves all layers. Its layout does not depend on which of
    them a rank has called. With ``balance_over='call'``, or a constraint with
    ``paper_per_call``, a second one comes before it, of the number of calls.

    Args:
        layers: The layers by name; the same ones on all ranks.

    Returns:
        By name what the calls of the step add up to; None where no rank has
        called the layer.

    Raises:
        RuntimeError: The scope or ``balance_weight`` of a layer cannot be
            served by the model that calls it.
    """
    if not layers:
        return {}
    taken, nothing, rows = {}, {}, {}
    for name, layer in layers.items():
        taken[name] = layer.recorder.take()
        _check_served(name, layer, taken[name])
        nothing[name] = layer.no_samples()
        rows[name] = layer.recorder.rows(taken[name], nothing[name])
    rows = _padded(rows, [
        name for name, layer in layers.items()
        if layer.recorder.by_call
    ])
    sums = all_reduce_sum(torch.cat([r.flatten() for r in rows.values()]))
    parts = sums.split([r.numel() for r in rows.values()])
    summaries = dict.fromkeys(layers)
    for (name, layer), part in zip(layers.items(), parts):
        # The first column is a number of calls; reading it waits for the
        # device.
        if not taken[name] and not part.view_as(rows[name])[:, 0].any():
            continue
        part = part.view_as(rows[name])
        summaries[name] = layer.recorder.summary(part, nothing[name])
        if layer.hard_constraint is not None:
            layer.hard_constraint.observe(
                *layer.recorder.usage(part, nothing[name]))
    return summaries


def _padded(rows: Dict[str, Tensor], names: Sequence[str]
            ) -> Dict[str, Tensor]:
    """Add rows of zeros to some layers, up to the number that the rank with
    the most calls has."""
    if not names or world_size() == 1:
        return rows
    numbers = all_reduce_max(
        torch.tensor([len(rows[name]) for name in names],
                     device=rows[names[0]].device)).tolist()
    return rows | {
        name: F.pad(rows[name], (0, 0, 0, number - len(rows[name])))
        for name, number in zip(names, numbers)
    }


def _check_served(name: str, layer: nn.Module, calls: Sequence[Call]) -> None:
    if any(call.counts is None for call in calls):
        raise RuntimeError(
            f"{name}: balance_weight='foreground' needs a head that tells "
            "what is foreground; use 'sample' or 'area'")
    if len(calls) > 1 and not layer.scope.repeatable:
        raise RuntimeError(
            f'{name}: scope={layer.scope!r} is one decision for all levels, '
            'but this model calls the layer level by level; use '
            "scope=dict(type='LevelScope')")


def in_backward() -> bool:
    """Whether autograd is running backward in this thread."""
    # What PyTorch's own checkpointing asks; there is no public name for it.
    return torch._C._current_graph_task_id() != -1
