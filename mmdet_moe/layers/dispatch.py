"""Dispatch: run the experts that a routing selected and mix what they return.

``y[n] = sum_e weights[n, e] * experts[e](x[n])``

Both functions take the pieces of all levels at once: ``pieces`` is a sequence
of L tensors (n_l, C, h_l, w_l), ``weights`` one of L tensors (n_l, E). They
return one mixture per piece. :func:`dense_dispatch` is the definition,
:func:`sparse_dispatch` the way to compute it.
"""
from typing import Callable, List, Sequence

import torch
from torch import Tensor, nn

from .distributed import world_size

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

    Which sample goes where is brought to the host in one transfer for all
    levels: wherever the weight is not 0, NaN included.
    Experts without a sample are not run at all: an empty batch would turn
    the running statistics of a BatchNorm into NaN.
    """
    used = (torch.cat(list(weights)) != 0).cpu()
    outputs = [
        _mix(x, w, mine, experts) for x, w, mine in zip(
            pieces, weights, used.split([len(x) for x in pieces]))
    ]
    if world_size() > 1 and torch.is_grad_enabled():
        idle = [experts[e] for e in (~used.any(dim=0)).nonzero().flatten()]
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


def _mix(x: Tensor, weights: Tensor, used: Tensor,
         experts: Sequence[nn.Module]) -> Tensor:
    """One level: x (n, ...), weights (n, E), used (n, E) on the host."""
    mixture = None
    for e in used.any(dim=0).nonzero().flatten().tolist():
        rows = used[:, e].nonzero().squeeze(1).to(x.device)
        everything = len(rows) == len(x)
        y = experts[e](x if everything else x.index_select(0, rows))
        y = _scale(y, weights[:, e].index_select(0, rows))
        if mixture is None:
            mixture = y.new_zeros(len(x), *y.shape[1:])
        mixture = mixture + y if everything else mixture.index_add(0, rows, y)
    return mixture


def _scale(y: Tensor, weight: Tensor) -> Tensor:
    """Multiply each sample by its weight; the result has the dtype of y.

    The product is made in float32: the gradient of a weight is a sum over all
    positions, which half precision could not hold.
    """
    return (y * weight.view(-1, *[1] * (y.dim() - 1))).to(y.dtype)


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
