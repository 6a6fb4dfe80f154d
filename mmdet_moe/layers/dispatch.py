"""Dispatch: run the experts that a routing selected and mix what they return.

``y[n] = sum_e weights[n, e] * experts[e](x[n])``

Both functions take the pieces of all levels at once: ``pieces`` is a sequence
of L tensors (n_l, C, h_l, w_l), ``weights`` one of L tensors (n_l, E). They
return one mixture per piece. :func:`dense_dispatch` is the definition,
:func:`sparse_dispatch` the way to compute it.
"""
from functools import partial
from typing import Callable, Dict, Iterable, List, Mapping, Sequence, Union

import torch
from torch import Tensor, nn

from .checks import check_choice, check_keywords, check_number, fail
from .distributed import distributed
from .memory_format import memory_order
from .merging import MERGE_ABOVE, MergedConvolution, merging_pays
from .plan import Plan, make_plans

Dispatch = Callable[[Sequence[Tensor], Sequence[Tensor], Sequence[nn.Module]],
                    List[Tensor]]


def dense_dispatch(pieces: Sequence[Tensor], weights: Sequence[Tensor],
                   experts: Sequence[nn.Module]) -> List[Tensor]:
    """Run every expert on every sample: the obvious reference."""
    return [
        sum(_scale(expert(x), w[:, e]) for e, expert in enumerate(experts))
        for x, w in zip(pieces, weights)
    ]


def sparse_dispatch(
        pieces: Sequence[Tensor],
        weights: Sequence[Tensor],
        experts: Sequence[nn.Module],
        *,
        merge_above: Mapping[str, float] = MERGE_ABOVE) -> List[Tensor]:
    """Run each expert once per level, on its own samples only.

    What is to be done is decided for all levels before anything is, see
    :mod:`.plan`; a sample goes wherever its weight is not 0, NaN included.
    Experts without a sample are not run: an empty batch may turn the running
    statistics of a BatchNorm into NaN. Only a level without any sample is
    given to the first expert, for the shape of the output. Convolutions are
    merged where that is cheaper, see :mod:`.merging`.

    Args:
        pieces, weights, experts: See above.
        merge_above: By type of device, positions from which a convolution
            costs more than to merge a kernel for them; nothing is merged on
            devices that are not named.
    """
    experts = list(experts)
    plans = make_plans(weights)
    pays = merging_pays(pieces, plans, experts, merge_above)
    merged = sorted({e for plan, p in zip(plans, pays) if p for e in plan.rows})
    merge = MergedConvolution([experts[e] for e in merged]) if merged else None
    outputs = [
        merge(x, w[:, merged]) if p else _mix(x, w, plan, experts)
        for x, w, plan, p in zip(pieces, weights, plans, pays)
    ]
    if distributed() and torch.is_grad_enabled():
        busy = {e for plan in plans for e in plan.rows}
        idle = [x for e, x in enumerate(experts) if e not in busy]
        # Weights of no sample are in no mixture, and the gate would be idle.
        outputs[0] = _Tie.apply(
            outputs[0], *(p for expert in idle for p in expert.parameters()),
            *(w for w in weights if not len(w)))
    return outputs


class RememberingDispatch:
    """Run an expert on a piece once, however often the piece comes back.

    For a layer that is run again and again on the same features with other
    weights, in evaluation. An expert is run on all samples of a piece as soon
    as one of them needs it, and what it returned is kept until it is given
    a piece with other values.
    """

    def __init__(self) -> None:
        self._kept = {}

    def __call__(self, pieces: Sequence[Tensor], weights: Sequence[Tensor],
                 experts: Sequence[nn.Module]) -> List[Tensor]:
        used = [(w != 0).any(dim=0).nonzero().flatten().tolist()
                for w in weights]
        return [
            sum(_scale(self._output(level, e, x, experts), w[:, e])
                for e in mine) if mine else experts[0](x)
            for level, (x, w, mine) in enumerate(zip(pieces, weights, used))
        ]

    def _output(self, level: int, e: int, x: Tensor,
                experts: Sequence[nn.Module]) -> Tensor:
        # A layer that is called level by level has a piece of each shape.
        key = level, x.shape, e
        piece, output = self._kept.get(key, (None, None))
        # Pieces that are cut out of maps are new tensors at each call.
        if piece is not x and not (piece is not None and torch.equal(piece, x)
                                   ):
            output = experts[e](x)
            self._kept[key] = x, output
        return output


def _mix(x: Tensor, weights: Tensor, plan: Plan,
         experts: Sequence[nn.Module]) -> Tensor:
    """One level: x (n, ...), weights (n, E) -> mixtures (n, ...).

    Samples are gathered once, for all experts that see a part of them: there
    are K n samples and outputs in memory, not E n.
    """
    if not len(x):
        return experts[0](x)  # for its shape: there may be no regions
    if plan.direct is not None and not weights.requires_grad:
        return experts[plan.direct](x)  # nothing to gather or to weigh
    there, back = memory_order(x)
    outputs = (
        experts[e](part).movedim(*there)
        for e, part in zip(plan.rows, _gather(x, list(plan.rows.values()))))
    # In a compiled graph the gradients of _Mixture are 0 (PyTorch 2.11), and
    # jit.trace, which other FLOP counters use, stops at it.
    if torch.is_grad_enabled() and not (torch.compiler.is_compiling()
                                        or torch.jit.is_tracing()):
        mixture = _Mixture.apply(weights, plan.rows, *outputs)
    else:
        mixture = _weighted(weights, plan.rows, outputs)
    return mixture.movedim(*back)


def _gather(x: Tensor, rows: Sequence[Tensor]) -> List[Tensor]:
    """What each of some experts sees of x; itself, where that is all."""
    n = len(x)
    some = [r for r in rows if len(r) < n]
    if not some:
        return [x] * len(rows)
    there, back = memory_order(x)
    # Unsafe if the whole was used too; so an expert may work in place.
    parts = iter(
        x.movedim(*there).index_select(0, torch.cat(some)).movedim(*back)
        .unsafe_split_with_sizes([len(r) for r in some]))
    return [next(parts) if len(r) < n else x for r in rows]


def _weighted(weights: Tensor, rows: Dict[int, Tensor],
              outputs: Iterable[Tensor]) -> Tensor:
    """Sum of the weighted outputs of experts, each on rows of its own.

    (n, E) weights; of m experts rows (k,) and outputs (k, ...) -> (n, ...).
    """
    n, mixture = len(weights), None
    for (e, r), y in zip(rows.items(), outputs):
        w = weights[:, e]
        if mixture is None and len(r) == n:
            mixture = _scale(y, w)
            continue
        if mixture is None:
            mixture = y.new_zeros(n, *y.shape[1:])
        if len(r) < n:
            mixture.index_add_(0, r, _scale(y, w[r]))
        elif y.dtype == w.dtype:
            mixture.addcmul_(y, _column(w, y))
        else:
            mixture += _scale(y, w)
    return mixture


class _Mixture(torch.autograd.Function):
    """:func:`_weighted` with its gradient.

    As ``index_add(rows, output * weight)`` one after the other, but without
    the products in memory: outputs of a subnet are larger than its features,
    and to read and write them is what a mixture costs beside its experts.
    """

    @staticmethod
    def forward(ctx, weights: Tensor, rows: Dict[int, Tensor],
                *outputs: Tensor) -> Tensor:
        ctx.rows = rows
        ctx.save_for_backward(
            weights, *(outputs if ctx.needs_input_grad[0] else ()))
        return _weighted(weights, rows, outputs)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        weights, *outputs = ctx.saved_tensors
        to_weights = torch.zeros_like(weights) if outputs else None
        to_outputs = []
        for i, (e, r) in enumerate(ctx.rows.items()):
            everything = len(r) == len(weights)
            g = gradient if everything else gradient.index_select(0, r)
            if outputs:
                to_weights[r, e] = _dot(g, outputs[i]).to(weights.dtype)
            to_outputs.append(_scale(g, weights[r, e]))
        return (to_weights, None, *to_outputs)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, (k, ...) -> (k,), at least float32."""
    dtype = torch.promote_types(a.dtype, torch.float32)
    if a.dim() == 2:  # many short rows
        return torch.linalg.vecdot(a.to(dtype), b.to(dtype))
    # A few long ones: to hold all products would cost more than to add up.
    return torch.stack([
        torch.dot(x.flatten().to(dtype), y.flatten().to(dtype))
        for x, y in zip(a, b)
    ])


def _scale(y: Tensor, weight: Tensor) -> Tensor:
    """Multiply each sample by its weight; the result has the dtype of y.

    The product is made in float32: the gradient of a weight is a sum over all
    positions, which half precision could not hold.
    """
    return (y * _column(weight, y)).to(y.dtype)


def _column(weight: Tensor, like: Tensor) -> Tensor:
    """(k,) -> (k, 1, ...) to be multiplied with (k, ...)."""
    return weight.view(-1, *[1] * (like.dim() - 1))


class _Tie(torch.autograd.Function):
    """An output as it is, with gradients of 0 for idle parameters.

    DistributedDataParallel waits for a gradient of every parameter, and an
    expert that is idle here may be busy on another rank.
    """

    @staticmethod
    def forward(ctx, output: Tensor, *idle: Tensor) -> Tensor:
        ctx.save_for_backward(*idle)
        return output.detach()  # unlike a view may be changed in place

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return (gradient, *(torch.zeros_like(p) for p in ctx.saved_tensors))


DISPATCHES = {'sparse': sparse_dispatch, 'dense': dense_dispatch}


def build_dispatch(cfg: Union[str, Mapping]) -> Dispatch:
    """The dispatch that a config names.

    Args:
        cfg: ``'sparse'``, ``'dense'``, or a dict with that as its ``type``
            and keyword-only arguments of that function.

    Raises:
        ValueError: There is no such dispatch, or argument.
    """
    options = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
    function = DISPATCHES[check_choice('dispatch', options.pop('type', None),
                                       DISPATCHES)]
    check_keywords('dispatch', options, function,
                   reserved=('pieces', 'weights', 'experts'))
    above = options.get('merge_above', {})
    if not isinstance(above, Mapping):
        fail('dispatch.merge_above', above, 'a dict such as dict(cuda=50)')
    for device, positions in above.items():
        check_number(f'dispatch.merge_above.{device}', positions)
    return partial(function, **options) if options else function
