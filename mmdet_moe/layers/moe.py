"""The MoE layer: gate + routing + constraints + dispatch."""
from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from .checks import build, check_choice, check_int, check_keywords, fail
from .dispatch import DISPATCHES
from .distributed import all_reduce_sum
from .gates import GATES, GateNoise
from .hard_constraints import HARD_CONSTRAINTS
from .routing import Routing, top_k_routing
from .soft_constraints import SOFT_CONSTRAINTS, SoftConstraint
from .statistics import load


@dataclass(frozen=True)
class StepSummary:
    """What one layer did in one forward pass of the model, on all ranks.

    Attributes:
        losses: Weighted loss by name of the soft constraint, scalars.
        importance: (E,) mean weight over the samples; sums to 1.
        share: (E,) part of the samples that an expert was selected for;
            sums to K.
    """
    losses: Dict[str, Tensor]
    importance: Tensor
    share: Tensor


@dataclass(frozen=True)
class _Record:
    """One level of one call in training: (E,) importance and load."""
    importance: Tensor
    load: Tensor


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


class MoELayer(nn.Module):
    r"""Sparse mixture of experts, ``y[n] = sum_e w[n, e] expert_e(x[n])``.

    A sample n is one image at one pyramid level: the layer takes one feature
    map (B, C, H, W), or the L maps of a pyramid, and decides for each image
    of each map on its own.

    In training the balance is kept by soft constraints, losses that the
    caller adds to its own (see :meth:`collect`), and by a hard constraint
    that masks over-used experts. In evaluation there is no noise and no mask.

    Source: Pavlitska et al. 2022 (arXiv 2204.10598), section III.

    Args:
        expert: Makes one expert; called E times.
        in_channels: C, channels of the features.
        num_experts: E.
        top_k: K, experts per sample.
        gate: ``type`` and arguments of a gate out of ``GATES``.
        noise: Whether learned noise is added to the logits in training.
        soft_constraint: ``type`` and arguments of a loss out of
            ``SOFT_CONSTRAINTS``, or a sequence of these, or None.
        hard_constraint: ``type`` and arguments of a constraint out of
            ``HARD_CONSTRAINTS``, or None.
        balance_over: ``'step'``: soft constraints see the importance of all
            calls and levels of a step together, so that an expert may own a
            level. ``'call'``: of each level of each call on its own, then
            the mean (as in the authors' code).
        dispatch: ``'sparse'``, or ``'dense'``: all experts on all samples.

    Raises:
        ValueError: A value is not allowed; names key, value, what is.

    Example:
        >>> layer = MoELayer(lambda: nn.Conv2d(8, 16, 3, padding=1), 8,
        ...                  num_experts=4, top_k=2,
        ...                  soft_constraint=dict(type='KLLoss', weight=0.5))
        >>> p3, p4 = torch.rand(2, 8, 32, 32), torch.rand(2, 8, 16, 16)
        >>> [y.shape for y in layer([p3, p4])]
        [torch.Size([2, 16, 32, 32]), torch.Size([2, 16, 16, 16])]
        >>> layer.routing.weights.shape  # N = 2 levels x 2 images, E
        torch.Size([4, 4])
        >>> loss = sum(layer.collect().losses.values())
    """

    def __init__(self,
                 expert: Callable[[], nn.Module],
                 in_channels: int,
                 *,
                 num_experts: int = 4,
                 top_k: int = 2,
                 gate: Optional[dict] = None,
                 noise: bool = False,
                 soft_constraint: Union[dict, Sequence[dict], None] = None,
                 hard_constraint: Optional[dict] = None,
                 balance_over: str = 'step',
                 dispatch: str = 'sparse') -> None:
        super().__init__()
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.num_experts = check_int('num_experts', num_experts, 1)
        self.top_k = check_int('top_k', top_k, 1, num_experts)
        self.balance_over = check_choice('balance_over', balance_over,
                                         ('step', 'call'))
        self.dispatch = DISPATCHES[check_choice('dispatch', dispatch,
                                                DISPATCHES)]
        self.gate = build(
            'gate',
            dict(type='GAPFCGate') if gate is None else gate,
            GATES,
            in_channels=in_channels,
            num_experts=num_experts)
        self.noise = GateNoise(in_channels, num_experts) if check_choice(
            'noise', noise, (False, True)) else None
        self.soft_constraints = self._build_soft(soft_constraint)
        self.hard_constraint = None if hard_constraint is None else build(
            'hard_constraint',
            hard_constraint,
            HARD_CONSTRAINTS,
            num_experts=num_experts,
            top_k=top_k)
        self.experts = nn.ModuleList(expert() for _ in range(num_experts))
        self._check_expert_channels()
        self.check_collectives()
        #: Whether calls in training are kept for :meth:`collect`.
        self.recording = self.constrained
        #: The latest decision, without its graph; None before the first call.
        self.routing: Optional[Routing] = None
        self._records: List[_Record] = []
        self._guards: List[_Guard] = []

    @property
    def constrained(self) -> bool:
        """Whether the layer has any constraint, soft or hard."""
        return bool(self.soft_constraints) or self.hard_constraint is not None

    def forward(
        self, x: Union[Tensor, Sequence[Tensor]]
    ) -> Union[Tensor, List[Tensor]]:
        """Features (B, C, H, W), or a sequence of them, -> mixtures alike."""
        if isinstance(x, Tensor):
            return self.forward([x])[0]
        routing = self.route(x)
        self.routing = routing.detach()
        if self.recording and self.training and torch.is_grad_enabled():
            self._record(routing, batch=len(x[0]))
        return self.dispatch(x, routing, self.experts)

    def route(self, levels: Sequence[Tensor]) -> Routing:
        """L tensors (B, C, H_l, W_l) -> the decision for N = L * B samples."""
        logits = torch.cat([self._logits(x) for x in levels])
        constrained = self.training and self.hard_constraint is not None
        masked = self.hard_constraint.masked() if constrained else None
        return top_k_routing(logits, self.top_k, masked)

    def collect(self) -> Optional[StepSummary]:
        """Losses and statistics of all calls since the last time; forgets.

        Called once after the forward pass of the model and before its
        backward pass. Sums over all ranks, so every rank must call it.
        Returns None if no call was recorded. A layer without a constraint
        records only if its ``recording`` is set.
        """
        records, guards = self._records, self._guards
        self.discard()
        if not records:
            return None
        for guard in guards:
            guard.collected = True
        counts = all_reduce_sum(
            torch.stack([
                torch.stack((record.importance, record.load))
                for record in records
            ]))  # (calls, 2, E)
        importance, loads = counts.sum(dim=0).detach()
        per_loss = counts[:, 0]
        if self.balance_over == 'step':
            per_loss = per_loss.sum(dim=0, keepdim=True)
        if self.hard_constraint is not None:
            self.hard_constraint.observe(importance)
        samples = importance.sum()  # the weights of each sample sum to 1
        return StepSummary(
            losses={c.name: c(per_loss)
                    for c in self.soft_constraints},
            importance=importance / samples,
            share=loads / samples)

    def discard(self) -> None:
        """Forget the calls since the last :meth:`collect`."""
        self._records, self._guards = [], []

    def step(self) -> None:
        """Move the hard constraint; called once per optimizer step."""
        if self.hard_constraint is not None:
            self.hard_constraint.step()

    def _logits(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:
            raise ValueError(
                f'in_channels={self.in_channels}: the features have '
                f'{x.shape[1]} channels; both must be the same')
        logits = self.gate(x)
        if self.training and self.noise is not None:
            logits = logits + self.noise(x)
        return logits

    def _record(self, routing: Routing, batch: int) -> None:
        self._records += [
            _Record(part.weights.sum(dim=0), load(part.weights))
            for part in routing.split(batch)
        ]
        if self.constrained and routing.weights.requires_grad:
            self._guards.append(_Guard(f'MoELayer({self.extra_repr()})'))
            routing.weights.register_hook(self._guards[-1])

    def _build_soft(self, cfgs) -> Tuple[SoftConstraint, ...]:
        if cfgs is None:
            return ()
        if isinstance(cfgs, (list, tuple)):
            keyed = {f'soft_constraint[{i}]': c for i, c in enumerate(cfgs)}
        else:
            keyed = {'soft_constraint': cfgs}
        constraints = tuple(
            build(key, cfg, SOFT_CONSTRAINTS) for key, cfg in keyed.items())
        names = [constraint.name for constraint in constraints]
        if len(set(names)) < len(names):
            fail('soft_constraint', cfgs, 'each type once')
        for constraint in constraints:
            if self.top_k < constraint.top_k_min and self.num_experts > 1:
                fail('top_k', self.top_k,
                      f'at least {constraint.top_k_min} with the soft '
                      f'constraint {constraint!r}: with one expert per sample '
                      'its weight is always 1, and the loss has no gradient')
        return constraints

    def check_collectives(self) -> None:
        """Refuse SyncBatchNorm in an expert.

        It waits for the other ranks at every call, and ranks call different
        experts.
        """
        for module in self.experts.modules():
            if isinstance(module, nn.SyncBatchNorm):
                fail('norm', 'SyncBN',
                     'GN or BN in experts: ranks that run different experts '
                     'would wait for each other forever')

    def _check_expert_channels(self) -> None:
        for module in self.experts[0].modules():
            channels = getattr(module, 'in_channels', None)
            if channels is not None:
                if channels != self.in_channels:
                    fail('in_channels', self.in_channels,
                          f'{channels}, what the experts take')
                return

    def extra_repr(self) -> str:
        soft = ', '.join(map(repr, self.soft_constraints)) or None
        return (f'num_experts={self.num_experts}, top_k={self.top_k}, '
                f'soft_constraint={soft}, balance_over={self.balance_over}')


def check_moe(cfg: dict) -> dict:
    """``cfg`` if it has keys of a :class:`MoELayer` only, else ValueError."""
    return check_keywords(
        'moe', cfg, MoELayer, reserved=('expert', 'in_channels'))


def moe_layers(model: nn.Module) -> Dict[str, MoELayer]:
    """All MoE layers in a model by their dotted names, in order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MoELayer)
    }
