"""Dispatch of rows to feed-forward networks, as two grouped products.

The rows are sorted by their expert, and one product of the sorted rows with the
stacked weights of all experts replaces a product for each of them, as in
MegaBlocks (Gale et al. 2022, arXiv 2211.15841). On a GPU, where E small
products wait for each other, this is meant to pay; it is not measured yet.
"""
from typing import List, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autocast import autocast_dtype
from .checks import fail
from .experts import FeedForward


@torch.compiler.disable  # as the sparse one
def grouped_dispatch(pieces: Sequence[Tensor], weights: Sequence[Tensor],
                     experts: Sequence[nn.Module]) -> List[Tensor]:
    """As :func:`.dense_dispatch`, for rows (n, C) and feed-forward networks.

    An expert without a row has gradients of 0.
    """
    into, out = (_stacked(experts, layer) for layer in (0, 2))
    return [_mixtures(x, w, into, out) for x, w in zip(pieces, weights)]


def check_grouped(experts: Sequence[nn.Module]) -> None:
    """Refuse what cannot be grouped.

    Raises:
        ValueError: The experts are no feed-forward networks, or of widths that
            a grouped product does not take, or this PyTorch has none.
    """
    other = next((type(e).__name__ for e in experts
                  if type(e) is not FeedForward), None)
    if other is not None:
        fail('dispatch', 'grouped',
             f"'sparse' with experts other than FeedForward; these are {other}")
    widths = [w for e in experts for w in e[0].weight.shape if w % 8]
    if widths:  # 16 bytes in half precision
        fail('dispatch', 'grouped',
             f"'sparse' with {widths[0]} channels: grouped products need "
             'multiples of 8, of the features and of the hidden ones')
    if not hasattr(F, 'grouped_mm'):
        fail('dispatch', 'grouped',
             f"'sparse' with PyTorch {torch.__version__}, which has no "
             'torch.nn.functional.grouped_mm')


def _stacked(experts: Sequence[nn.Module],
             layer: int) -> Tuple[Tensor, Tensor]:
    """Weights (E, in, out) and biases (E, out) of a layer of each expert."""
    return (torch.stack([e[layer].weight.t() for e in experts]),
            torch.stack([e[layer].bias for e in experts]))


def _mixtures(x: Tensor, weights: Tensor, into: Tuple[Tensor, Tensor],
              out: Tuple[Tensor, Tensor]) -> Tensor:
    """Rows (n, C), weights (n, E) -> mixtures (n, C)."""
    expert, row = weights.t().nonzero(as_tuple=True)  # sorted by the expert
    ends = (weights != 0).sum(dim=0).cumsum(0).to(torch.int32)
    hidden = _product(x.index_select(0, row), *into, expert, ends).relu()
    y = _product(hidden, *out, expert, ends)
    scaled = (y * weights[row, expert][:, None]).to(y.dtype)
    return y.new_zeros(len(x), y.shape[1]).index_add(0, row, scaled)


def _product(x: Tensor, weight: Tensor, bias: Tensor, expert: Tensor,
             ends: Tensor) -> Tensor:
    """Rows (k, in) that are sorted by their expert (k,) -> (k, out)."""
    dtype = autocast_dtype(x.device.type)
    if dtype is not None:  # as nn.Linear
        x, weight, bias = (t.to(dtype) for t in (x, weight, bias))
    return F.grouped_mm(x, weight, offs=ends) + bias[expert]
