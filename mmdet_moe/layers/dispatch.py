"""Dispatch: run the experts that a routing selected and mix what they return.

``y[n] = sum_e weights[n, e] * experts[e](x[n])``

Both functions take the pieces of all levels at once: ``pieces`` is a sequence
of L tensors (n_l, C, h_l, w_l), ``weights`` one of L tensors (n_l, E). They
return one mixture per piece. :func:`dense_dispatch` is the definition,
:func:`sparse_dispatch` the way to compute it.
"""
from typing import Callable, Dict, List, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .distributed import world_size
from .memory_format import memory_order
from .merging import MergedConvolution, merging_pays
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


def sparse_dispatch(pieces: Sequence[Tensor], weights: Sequence[Tensor],
                    experts: Sequence[nn.Module]) -> List[Tensor]:
    """Run each expert once per level, on its own samples only.

    What is to be done is decided for all levels before anything is, see
    :mod:`.plan`; a sample goes wherever its weight is not 0, NaN included.
    Experts without a sample are not run at all: an empty batch would turn the
    running statistics of a BatchNorm into NaN. Convolutions are merged where
    that is cheaper, see :mod:`.merging`.
    """
    experts = list(experts)
    plans = make_plans(weights)
    pays = merging_pays(pieces, plans, experts)
    merged = sorted({e for plan, p in zip(plans, pays) if p for e in plan.rows})
    merge = MergedConvolution([experts[e] for e in merged]) if merged else None
    outputs = [
        merge(x, w[:, merged]) if p else _mix(x, w, plan, experts)
        for x, w, plan, p in zip(pieces, weights, plans, pays)
    ]
    if world_size() > 1 and torch.is_grad_enabled():
        busy = {e for plan in plans for e in plan.rows}
        idle = [x for e, x in enumerate(experts) if e not in busy]
        outputs[0] = _Tie.apply(
            outputs[0], *(p for expert in idle for p in expert.parameters()))
    return outputs


class RememberingDispatch:
    """Run an expert on a piece once, however often the piece comes back.

    For a layer that is run again and again on the same features with other
    weights, in evaluation. An expert is run on all samples of a piece as soon
    as one of them needs it, and what it returned is kept until it is given
    another piece.
    """

    def __init__(self) -> None:
        self._kept = {}

    def __call__(self, pieces: Sequence[Tensor], weights: Sequence[Tensor],
                 experts: Sequence[nn.Module]) -> List[Tensor]:
        used = [(w != 0).any(dim=0).nonzero().flatten().tolist()
                for w in weights]
        return [
            sum(_scale(self._output(level, e, x, experts), w[:, e])
                for e in mine)
            for level, (x, w, mine) in enumerate(zip(pieces, weights, used))
        ]

    def _output(self, level: int, e: int, x: Tensor,
                experts: Sequence[nn.Module]) -> Tensor:
        piece, output = self._kept.get((level, e), (None, None))
        if piece is not x:
            output = experts[e](x)
            self._kept[level, e] = x, output
        return output


def _mix(x: Tensor, weights: Tensor, plan: Plan,
         experts: Sequence[nn.Module]) -> Tensor:
    """One level: x (n, ...), weights (n, E).

    Samples are gathered once, for all experts that see a part of them: there
    are K n samples and outputs in memory, not E n.
    """
    if not len(x):
        return experts[0](x)  # for its shape: there may be no regions
    if plan.direct is not None and not weights.requires_grad:
        return experts[plan.direct](x)  # nothing to gather or to weigh
    n = len(x)
    some = [r for r in plan.rows.values() if len(r) < n]
    there, back = memory_order(x)
    gathered = iter(
        x.movedim(*there).index_select(0, torch.cat(some)).movedim(*back)
        .split([len(r) for r in some]) if some else ())
    outputs = [
        experts[e](x if len(r) == n else next(gathered))
        for e, r in plan.rows.items()
    ]
    there, back = memory_order(outputs[0])
    return _Mixture.apply(weights, plan.rows,
                          *(y.movedim(*there) for y in outputs)).movedim(*back)


class _Mixture(torch.autograd.Function):
    """Sum of the weighted outputs of experts, each on rows of its own.

    As ``index_add(rows, output * weight)`` one after the other, but without
    the products in memory: outputs of a subnet are larger than its features,
    and to read and write them is what a mixture costs beside its experts.
    """

    @staticmethod
    def forward(ctx, weights: Tensor, rows: Dict[int, Tensor],
                *outputs: Tensor) -> Tensor:
        """(n, E) weights; of m experts rows (k,) and outputs (k, ...) ->
        (n, ...)"""
        ctx.save_for_backward(weights, *outputs)
        ctx.rows = rows
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

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        weights, *outputs = ctx.saved_tensors
        to_weights, to_outputs = torch.zeros_like(weights), []
        for (e, r), y in zip(ctx.rows.items(), outputs):
            everything = len(r) == len(weights)
            g = gradient if everything else gradient.index_select(0, r)
            to_weights[r, e] = _dot(g, y)
            to_outputs.append(_scale(g, weights[r, e]))
        return (to_weights, None, *to_outputs)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each sample, (k, ...) -> (k,), in float32.

    One by one: to hold all products would cost more than to add them up.
    """
    return torch.stack([
        torch.dot(x.flatten().float(), y.flatten().float())
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
        return output.view_as(output)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return (gradient, *(torch.zeros_like(p) for p in ctx.saved_tensors))


DISPATCHES = {'sparse': sparse_dispatch, 'dense': dense_dispatch}
