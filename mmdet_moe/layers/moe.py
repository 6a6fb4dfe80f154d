"""The MoE layer: gate + scope + routing + constraints + dispatch."""
from typing import Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn

from .checks import check_choice, check_int, check_keywords, fail
from .compatibility import check_collectives, check_experts, check_options
from .dispatch import DISPATCHES
from .distributed import all_reduce_sum
from .gates import GATES, GateNoise, global_average_pool
from .hard_constraints import HARD_CONSTRAINTS
from .recorder import Call, Recorder, StepSummary
from .routing import ForcedChoice, Routing, top_k_routing
from .scopes import SCOPES, Scope
from .soft_constraints import SOFT_CONSTRAINTS, SoftConstraint
from .statistics import weighted_sum

Levels = Sequence[Tensor]


class MoELayer(nn.Module):
    r"""Sparse mixture of experts, ``y[n] = sum_e w[n, e] expert_e(x[n])``.

    The layer takes one feature map (B, C, H, W), or the L maps of a pyramid.
    What a sample n is, is up to the scope: by default each image of each map.

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
        scope: ``type`` and arguments of a scope out of ``SCOPES``: what one
            decision covers.
        soft_constraint: ``type`` and arguments of a loss out of
            ``SOFT_CONSTRAINTS``, or a sequence of these, or None.
        hard_constraint: ``type`` and arguments of a constraint out of
            ``HARD_CONSTRAINTS``, or None.
        balance_over: ``'step'``: soft constraints see the importance of all
            calls and levels of a step together, so that an expert may own a
            level. ``'call'``: of each level of each call on its own, then
            the mean (as in the authors' code).
        balance_weight: What a sample counts in the importance: ``'sample'``:
            1; ``'area'``: its positions; ``'foreground'``: its positive
            anchors (after DAMEX, arXiv 2308.05856), which a detection head
            has to tell the layer, see :meth:`weigh`.
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
                 scope: Optional[dict] = None,
                 balance_over: str = 'step',
                 balance_weight: str = 'sample',
                 dispatch: str = 'sparse') -> None:
        super().__init__()
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.num_experts = check_int('num_experts', num_experts, 1)
        self.top_k = check_int('top_k', top_k, 1, num_experts)
        self.balance_weight = check_choice('balance_weight', balance_weight,
                                           ('sample', 'area', 'foreground'))
        self.dispatch = DISPATCHES[check_choice('dispatch', dispatch,
                                                DISPATCHES)]
        self.gate = GATES.build(
            'gate',
            dict(type='GAPFCGate') if gate is None else gate,
            in_channels=in_channels,
            num_experts=num_experts)
        self.noise = GateNoise(in_channels, num_experts) if check_choice(
            'noise', noise, (False, True)) else None
        self.scope: Scope = SCOPES.build(
            'scope', dict(type='LevelScope') if scope is None else scope)
        self.hard_constraint = None if hard_constraint is None else (
            HARD_CONSTRAINTS.build(
                'hard_constraint',
                hard_constraint,
                num_experts=num_experts,
                top_k=top_k))
        self.recorder = Recorder(
            self._build_soft(soft_constraint),
            check_choice('balance_over', balance_over, ('step', 'call')))
        check_options(self)
        self.experts = nn.ModuleList(expert() for _ in range(num_experts))
        check_experts(self.experts, in_channels)
        check_collectives(self.experts)
        self.scope.fit(self.experts[0])
        #: Whether calls in training are kept for :meth:`collect`.
        self.recording = self.constrained
        #: How the choice is overruled in evaluation; see :func:`.force`.
        self.forcing: Optional[ForcedChoice] = None
        #: Where a dense model has the parts of an expert: from the start of
        #: their names in the expert to names beside this layer. None: under
        #: this layer's own name.
        self.dense_names: Optional[Dict[str, str]] = None
        #: What the layer computes that no dense one does, in words; such a
        #: layer cannot be upcycled to.
        self.beyond_dense = ''
        #: The latest decision, without its graph; None before the first call.
        self.routing: Optional[Routing] = None
        #: (B, H_l, W_l) of the L maps of the latest call.
        self.map_shapes: List[torch.Size] = []

    @property
    def soft_constraints(self) -> Tuple[SoftConstraint, ...]:
        return self.recorder.soft_constraints

    @property
    def constrained(self) -> bool:
        """Whether the layer has any constraint, soft or hard."""
        return bool(self.soft_constraints) or self.hard_constraint is not None

    def forward(
            self, x: Union[Tensor,
                           Levels]) -> Union[Tensor, List[Tensor]]:
        """Features (B, C, H, W), or a sequence of them, -> mixtures alike."""
        return self._forward([x])[0] if isinstance(
            x, Tensor) else self._forward(x)

    def _forward(self, x: Levels) -> List[Tensor]:
        for level in x:
            if level.shape[1] != self.in_channels:
                raise ValueError(
                    f'in_channels={self.in_channels}: the features have '
                    f'{level.shape[1]} channels; both must be the same')
        self.map_shapes = [level.shape[:1] + level.shape[2:] for level in x]
        routing = self.route(x)
        self.routing = routing.detach()
        outputs = self.dispatch(
            self.scope.cut(x), self.scope.spread(routing.weights, x),
            self.experts)
        return self.scope.join(outputs, x)

    def route(self, levels: Levels) -> Routing:
        """L tensors (B, C, H_l, W_l) -> the decision for N samples.

        In training with gradients it is recorded for :meth:`collect`.
        """
        draw = self._draw(levels)
        if not self.training:
            forcing = self.forcing
            if forcing is None:
                return top_k_routing(top_k=self.top_k, **draw)
            return top_k_routing(
                top_k=forcing.top_k,
                masked=forcing.masked.to(draw['logits'].device),
                **draw)
        if not (self.recording and torch.is_grad_enabled()):
            return self._constrained_routing(draw)
        counts = self._counts(levels)
        sizes = self.scope.sizes(levels)
        if self.hard_constraint is not None and (
                self.hard_constraint.paper_per_call):
            routing = self._route_per_call(draw, counts, sizes)
        else:
            routing = self._constrained_routing(draw)
        call = Call(routing, sizes, counts)
        self.recorder.add(call)
        if self.constrained:
            self.recorder.guard(call, f'MoELayer({self.extra_repr()})')
        return routing

    def weigh(self, maps: Levels) -> None:
        """Say what each position of the latest call counts in the importance.

        For ``balance_weight='foreground'``: a detection head calls it once it
        knows its targets, before :meth:`collect`.

        Args:
            maps: L tensors (B, H_l * W_l) or (B, H_l, W_l).
        """
        if self.recorder.calls:
            self.recorder.calls[-1].counts = self.scope.total([
                m.float().reshape(shape)
                for m, shape in zip(maps, self.map_shapes)
            ])

    def grids(self, rows: Tensor) -> List[Tensor]:
        """Rows of the latest :attr:`routing` (N, E) by place on the maps.

        Returns:
            L tensors (B, gh, gw, E); gh x gw is 1 x 1 where a decision is
            for the whole level, else H_l x W_l.
        """
        like = [rows.new_empty(shape) for shape in self.map_shapes]
        return self.scope.grids(rows, like)

    def collect(self) -> Optional[StepSummary]:
        """Losses and statistics of all calls since the last time; forgets.

        Called once after the forward pass of the model and before its
        backward pass. Sums over all ranks, so every rank must call it.
        Returns None if no call was recorded. A layer without a constraint
        records only if its ``recording`` is set.

        Raises:
            RuntimeError: The scope or ``balance_weight`` cannot be served by
                the model that calls the layer.
        """
        calls = self.recorder.calls
        if any(call.counts is None for call in calls):
            raise RuntimeError(
                "balance_weight='foreground' needs a head that tells its "
                'positive anchors, and the subnets of MoERetinaHead have one; '
                "use 'sample' or 'area' elsewhere")
        if len(calls) > 1 and not self.scope.repeatable:
            raise RuntimeError(
                f'scope={self.scope!r} is one decision for all levels, but '
                'this model calls the layer level by level; use '
                "scope=dict(type='LevelScope')")
        summary = self.recorder.collect()
        constraint = self.hard_constraint
        if not (summary is None or constraint is None
                or constraint.paper_per_call):
            constraint.observe(summary.total_importance)
        return summary

    def discard(self) -> None:
        """Forget the calls since the last :meth:`collect`."""
        self.recorder.discard()

    def step(self) -> None:
        """Move the hard constraint; called once per optimizer step."""
        if self.hard_constraint is not None:
            self.hard_constraint.step()

    def _draw(self, levels: Levels) -> Dict[str, Tensor]:
        """Logits of the N samples; in training with noise, if there is any."""
        seen = None

        def decide(look: Callable, levels: Levels) -> Tensor:
            nonlocal seen
            seen = self.scope.decide(look, levels)
            return seen

        logits = self.gate(levels, decide)
        if self.noise is None or not self.training:
            return dict(logits=logits)
        scale = self.noise(seen if self.gate.pools else self.scope.decide(
            global_average_pool, levels))
        noise = torch.randn_like(scale) * scale
        return dict(logits=logits + noise, noise=noise, noise_scale=scale)

    def _constrained_routing(self, draw: Dict[str, Tensor]) -> Routing:
        masked = None if self.hard_constraint is None else (
            self.hard_constraint.masked())
        return top_k_routing(top_k=self.top_k, masked=masked, **draw)

    def _route_per_call(self, draw: Dict[str, Tensor], counts: Tensor,
                        sizes: Sequence[int]) -> Routing:
        """Level by level, with the state moved after each (authors' code)."""
        pieces = {key: value.split(sizes) for key, value in draw.items()}
        parts = []
        for i, count in enumerate(counts.split(sizes)):
            parts.append(
                self._constrained_routing(
                    {key: value[i] for key, value in pieces.items()}))
            self.hard_constraint.observe(
                all_reduce_sum(
                    weighted_sum(count, parts[-1].weights.detach())))
            self.hard_constraint.step()
        return Routing.cat(parts)

    def _counts(self, levels: Levels) -> Optional[Tensor]:
        """(N,) what each sample counts; None if the head has to say it."""
        if self.balance_weight == 'foreground':
            return None
        counts = self.scope.total(
            [torch.ones_like(x[:, 0], dtype=torch.float) for x in levels])
        return counts if self.balance_weight == 'area' else torch.ones_like(
            counts)

    def _build_soft(self, cfgs) -> Tuple[SoftConstraint, ...]:
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

    def extra_repr(self) -> str:
        soft = ', '.join(map(repr, self.soft_constraints)) or None
        return (f'num_experts={self.num_experts}, top_k={self.top_k}, '
                f'scope={self.scope!r}, soft_constraint={soft}, '
                f'balance_over={self.recorder.balance_over}, '
                f'balance_weight={self.balance_weight}')


def check_moe(cfg: dict, *, targets: bool = False) -> dict:
    """``cfg`` if it has keys of a :class:`MoELayer` only, else ValueError.

    Args:
        cfg: The option ``moe`` of a part of a detector.
        targets: Whether that part may know where the objects are.
    """
    cfg = check_keywords(
        'moe', cfg, MoELayer, reserved=('expert', 'in_channels'))
    if cfg.get('balance_weight') == 'foreground' and not targets:
        fail('moe.balance_weight', 'foreground',
             "'sample' or 'area' outside of MoERetinaHead: only a detection "
             'head knows where the objects are')
    return cfg


def moe_layers(model: nn.Module) -> Dict[str, MoELayer]:
    """All MoE layers in a model by their dotted names, in order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MoELayer)
    }
