"""The MoE layer: gate + scope + routing + constraints + dispatch."""
from collections import OrderedDict
from typing import (
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .checks import check_choice, check_int, check_keywords
from .compatibility import check_collectives, check_experts, check_options
from .counting import count_positions, count_samples, domains_of
from .decision import Decision
from .dispatch import build_dispatch, dense_dispatch
from .experts import without_in_place
from .gates import GATES, GateNoise, global_average_pool
from .graphs import recorded_as_a_graph
from .grouped import check_grouped, grouped_dispatch
from .hard_constraints import HARD_CONSTRAINTS
from .padding import Images, real_positions, with_padding
from .recorder import Call, Recorder, StepSummary, collect
from .routing import ROUTING_FUNCTIONS, Forcing, Routing, top_k_routing
from .scopes import SCOPES, Levels, Scope, Shape
from .soft_constraints import SoftConstraint, build_soft_constraints

Observer = Callable[[Decision], None]


class MoELayer(nn.Module):
    r"""Sparse mixture of experts, ``y[n] = sum_e w[n, e] expert_e(x[n])``.

    The layer takes one feature map (B, C, H, W), or the L maps of a pyramid;
    with a scope of rows it takes rows (n, C), or tokens (B, T, C). What a
    sample n is, is up to the scope: by default each image of each map.

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
        routing: What makes weights of the logits of the selected experts:
            ``'softmax'``, or ``'sigmoid'``, divided by their sum.
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
            anchors, or 1 for a region that is positive (a proposal of this
            project), which a detection head has to tell the layer, see
            :meth:`weigh`.
        shared_expert: Whether there is one more expert, which every sample
            goes to: ``y = shared(x) + sum_e w_e expert_e(x)``. It is not part
            of the balance (DeepSeekMoE, arXiv 2401.06066).
        dispatch: ``'sparse'``; ``'grouped'``: feed-forward networks as
            grouped products; ``'dense'``: all experts on all samples; or a
            dict with that as its ``type`` and further arguments of
            :func:`.sparse_dispatch`.
        whole_pyramid: Whether the caller hands over all levels of a pyramid
            in one call.
        targets: Whether the caller knows its targets and calls
            :meth:`weigh`.
        dense_names: Where a dense model has the parts of an expert, see
            :func:`.dense_key`. None: under this layer's own name. Empty: a
            dense model has nothing of them.
        beyond_dense: What the layer adds that no dense model has, in words;
            such a layer cannot be upcycled to.

    Raises:
        ValueError: A value is not allowed; names key, value, what is.

    Example:
        >>> layer = MoELayer(lambda: nn.Conv2d(8, 16, 3, padding=1), 8,
        ...                  num_experts=4, top_k=2,
        ...                  soft_constraint=dict(type='KLLoss', weight=0.5))
        >>> p3, p4 = torch.rand(2, 8, 32, 32), torch.rand(2, 8, 16, 16)
        >>> [y.shape for y in layer([p3, p4])]
        [torch.Size([2, 16, 32, 32]), torch.Size([2, 16, 16, 16])]
        >>> layer.decide([p3, p4]).weights.shape  # N = 2 levels x 2 images, E
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
                 routing: str = 'softmax',
                 soft_constraint: Union[dict, Sequence[dict], None] = None,
                 hard_constraint: Optional[dict] = None,
                 scope: Optional[dict] = None,
                 balance_over: str = 'step',
                 balance_weight: str = 'sample',
                 shared_expert: bool = False,
                 dispatch: Union[str, dict] = 'sparse',
                 whole_pyramid: bool = True,
                 targets: bool = True,
                 dense_names: Optional[Mapping[str, str]] = None,
                 beyond_dense: str = '') -> None:
        super().__init__()
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.num_experts = check_int('num_experts', num_experts, 1)
        self.top_k = check_int('top_k', top_k, 1, num_experts)
        self.balance_weight = check_choice('balance_weight', balance_weight,
                                           ('sample', 'area', 'foreground'))
        self.dispatch = build_dispatch(dispatch)
        self.gate = GATES.build(
            'gate',
            dict(type='GAPFCGate') if gate is None else gate,
            in_channels=in_channels,
            num_experts=num_experts)
        self.noise = GateNoise(in_channels, num_experts) if check_choice(
            'noise', noise, (False, True)) else None
        self.routing_function = ROUTING_FUNCTIONS[check_choice(
            'routing', routing, ROUTING_FUNCTIONS)]
        self.scope: Scope = SCOPES.build(
            'scope', dict(type='LevelScope') if scope is None else scope)
        self.hard_constraint = None if hard_constraint is None else (
            HARD_CONSTRAINTS.build(
                'hard_constraint',
                hard_constraint,
                num_experts=num_experts,
                top_k=top_k))
        self.recorder = Recorder(
            build_soft_constraints(soft_constraint),
            check_choice('balance_over', balance_over, ('step', 'call')),
            by_call=self.hard_constraint is not None
            and self.hard_constraint.paper_per_call)
        check_options(self, whole_pyramid=whole_pyramid, targets=targets)
        self.experts = nn.ModuleList(
            without_in_place(expert()) for _ in range(num_experts))
        check_experts(self.experts, in_channels)
        if self.dispatch is grouped_dispatch:
            check_grouped(self.experts)
        self.shared = without_in_place(expert()) if check_choice(
            'shared_expert', shared_expert, (False, True)) else None
        check_collectives(self.experts)
        self.scope.fit(self.experts[0])
        #: How the choice is overruled in evaluation; see :func:`.force`.
        self.forcing: Optional[Forcing] = None
        #: Whether calls in training are kept for :meth:`collect`.
        self.recording = self.constrained
        #: The images of a padded batch, if it is known where they are.
        self.images: Optional[Images] = None
        #: Where a dense model has the parts of an expert; see
        #: :func:`.dense_key`.
        self.dense_names = dense_names
        if self.shared is not None and dense_names != {}:
            beyond_dense = beyond_dense or (
                'its shared expert is added to a mixture that does the work '
                'of the dense layer already; use shared_expert=False')
        #: What the layer computes that no dense one does; see
        #: :func:`.upcycle`.
        self.beyond_dense = beyond_dense
        self._observers: OrderedDict[int, Observer] = OrderedDict()

    @property
    def chooses(self) -> bool:
        """Whether the choice of the experts is one that a gate has learned:
        it is trained, not overruled, and there is something to choose."""
        return (self.gate.learned and self.forcing is None
                and self.top_k < self.num_experts)

    @property
    def all_experts(self) -> List[nn.Module]:
        """The E experts, and the shared one if there is one."""
        return [*self.experts, *([] if self.shared is None else [self.shared])]

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
        """Features, or a sequence of them, -> mixtures alike.

        Features are (B, C, H, W), or (..., C) with a scope of rows.
        """
        return self._forward([x])[0] if isinstance(
            x, Tensor) else self._forward(x)

    def _forward(self, x: Levels) -> List[Tensor]:
        self.scope.check(x, self.in_channels)
        shapes, inputs = self.scope.shapes(x), self.scope.lay_out(x)
        decision = self._decide(inputs, shapes)
        for observe in list(self._observers.values()):
            observe(decision)
        pieces = self.scope.cut(inputs)
        dispatch = dense_dispatch if recorded_as_a_graph() else self.dispatch
        outputs = dispatch(
            pieces, self.scope.spread(decision.weights, shapes), self.experts)
        if self.shared is not None:
            outputs = [y + self.shared(p) for y, p in zip(outputs, pieces)]
        return self.scope.join(outputs, shapes)

    def decide(self, levels: Levels) -> Decision:
        """L features -> the decision for N samples.

        In training with gradients it is recorded for :meth:`collect`.
        """
        self.scope.check(levels, self.in_channels)
        return self._decide(
            self.scope.lay_out(levels), self.scope.shapes(levels))

    def _decide(self, inputs: Levels, shapes: Sequence[Shape]) -> Decision:
        draw = self._draw(inputs, shapes)
        if not self.training:
            top_k, masked = self.top_k, None
            if self.forcing is not None:
                top_k, masked = self.forcing.choice(top_k, self.num_experts)
                masked = masked.to(draw['logits'].device)
            routing = self._route(draw, top_k, masked)
            if self.forcing is not None:
                routing = self.forcing.overruled(routing)
            return self._decision(routing, shapes)
        if not (self.recording and torch.is_grad_enabled()):
            return self._decision(self._constrained_routing(draw), shapes)
        counts, real = count_samples(self.scope, shapes, self.balance_weight,
                                     draw['logits'].device, self.images)
        decision = self._decision(self._constrained_routing(draw), shapes)
        self.recorder.add(
            Call(decision, counts, real, domains_of(
                self.scope, shapes, self.soft_constraints, real)),
            guarded=self.constrained,
            layer=f'MoELayer({self.extra_repr()})')
        return decision

    def _decision(self, routing: Routing,
                  shapes: Sequence[Shape]) -> Decision:
        real = self._real_parts(shapes)
        return Decision(
            routing, self.scope, shapes,
            real=self.scope.total(real) > 0 if real else None)

    def _real_parts(self, shapes: Sequence[Shape]) -> List[Tensor]:
        """What is real of each of the L inputs, (A, H, W); none if that is
        not known, or all of it."""
        if self.images is None:
            return []
        real = [real_positions(self.images, shape) for shape in shapes]
        return [] if any(mask is None for mask in real) else real

    def __getattr__(self, name: str):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in ('weight', 'bias'):
                if 'missed' in self.__dict__:  # while they are initialised
                    self.missed.append(name)
            elif not any(hasattr(expert, name) for expert in list(
                    self._modules.get('experts') or ())[:1]):
                raise
        # hasattr() is false: initialisers of single layers pass over it.
        raise AttributeError(
            f'this layer is a mixture of {self.num_experts} experts and has '
            f'no {name!r} of its own; what reads it cannot work with a '
            'mixture here. Put the experts into another layer')

    def observe(self, observer: Observer) -> RemovableHandle:
        """Have every decision told to a function, until told otherwise.

        Args:
            observer: Called with each :class:`Decision` as it is made, with
                its graph; what it returns is not used.

        Returns:
            A handle; its ``remove()`` ends it.
        """
        handle = RemovableHandle(self._observers)
        self._observers[handle.id] = observer
        return handle

    def weigh(self, maps: Levels) -> None:
        """Say what each position of the latest call counts in the importance.

        For ``balance_weight='foreground'``: a detection head calls it once it
        knows its targets, before :meth:`collect`.

        Args:
            maps: L tensors (B, H_l * W_l) or (B, H_l, W_l); or (B, 1), for
                all positions of an entry alike.
        """
        if self.recorder.calls:
            call = self.recorder.calls[-1]
            call.counts = count_positions(self.scope, call.decision.shapes,
                                          maps)

    def collect(self) -> Optional[StepSummary]:
        """Losses and statistics of all calls since the last time; forgets.

        Called once after the forward pass of the model and before its
        backward pass. Sums over all ranks, so every rank must call it; for
        several layers :func:`.collect` does so at once. Returns None if no
        call was recorded. A layer without a constraint records only if its
        ``recording`` is set.

        Raises:
            RuntimeError: The scope or ``balance_weight`` cannot be served by
                the model that calls the layer.
        """
        return collect({'MoELayer': self})['MoELayer']

    def discard(self) -> None:
        """Forget the calls since the last :meth:`collect`."""
        self.recorder.discard()

    def step(self) -> None:
        """Move the hard constraint; called once per optimizer step."""
        if self.hard_constraint is not None:
            self.hard_constraint.step()

    def seen(self, look: Callable[[Tensor], Tensor], inputs: Levels,
             shapes: Sequence[Shape]) -> Tensor:
        """What a function says of the samples, as :meth:`.Scope.decide`, from
        the images' own parts of padded maps.

        Args:
            look: Of pieces; it pools with :func:`.global_average_pool`.
            inputs: As the scope lays them out.
            shapes: Of the L inputs.
        """
        real = [] if self.scope.sees_rows else self._real_parts(shapes)
        if real:
            look, inputs = with_padding(look, real, inputs)
        return self.scope.decide(look, inputs)

    def _draw(self, inputs: Levels,
              shapes: Sequence[Shape]) -> Dict[str, Tensor]:
        """Logits of the N samples; in training with noise, if there is any."""
        with torch.autocast(inputs[0].device.type, enabled=False):
            features = self.seen(self.gate.features, inputs, shapes)
            logits = self.gate(features)
            if self.noise is None or not self.training:
                return dict(logits=logits)
            scale = self.noise(features if self.gate.pools else self.seen(
                global_average_pool, inputs, shapes))
        noise = torch.randn_like(scale) * scale
        return dict(logits=logits + noise, noise=noise, noise_scale=scale)

    def _constrained_routing(self, draw: Dict[str, Tensor]) -> Routing:
        masked = None if self.hard_constraint is None else (
            self.hard_constraint.masked())
        return self._route(draw, self.top_k, masked)

    def _route(self, draw: Dict[str, Tensor], top_k: int,
               masked: Optional[Tensor]) -> Routing:
        bias = None if self.hard_constraint is None else (
            self.hard_constraint.shift())
        return top_k_routing(
            top_k=top_k, masked=masked, bias=bias,
            function=self.routing_function, **draw)

    def no_samples(self) -> Routing:
        """A routing of 0 samples, with the tensors that one in training has."""
        device = next(self.parameters(), torch.empty(0)).device
        logits = torch.zeros(0, self.num_experts, device=device)
        noise = {} if self.noise is None else dict(
            noise=logits, noise_scale=logits)
        return top_k_routing(logits, self.top_k, **noise)

    def extra_repr(self) -> str:
        soft = ', '.join(map(repr, self.soft_constraints)) or None
        return (f'num_experts={self.num_experts}, top_k={self.top_k}, '
                f'scope={self.scope!r}, soft_constraint={soft}, '
                f'balance_over={self.recorder.balance_over}, '
                f'balance_weight={self.balance_weight}')


#: Arguments of a layer that the part of a model sets which builds it.
NOT_IN_CONFIGS = ('expert', 'in_channels', 'whole_pyramid', 'targets',
                  'dense_names', 'beyond_dense')


def check_moe(cfg: dict) -> dict:
    """The option ``moe`` of a part of a detector, if it has keys of a
    :class:`MoELayer` only, else ValueError."""
    return check_keywords('moe', cfg, MoELayer, reserved=NOT_IN_CONFIGS)


def moe_layers(model: nn.Module) -> Dict[str, MoELayer]:
    """All MoE layers in a model by their dotted names, in order."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, MoELayer)
    }
