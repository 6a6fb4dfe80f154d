"""Merging: the mixture of convolutions is the convolution with the mixture.

``sum_k w_k (x * W_k + b_k) = x * (sum_k w_k W_k) + sum_k w_k b_k``, so that K
experts that are single convolutions cost as much as one, once their kernels
are merged for each sample (CondConv, arXiv 1904.04971, does so for all
experts). The merging has its own price, which small maps are not worth. A
kernel that is not finite spoils what it is merged into even with a weight of
0, as in the dense reference.
"""
import math
from types import MappingProxyType
from typing import List, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .memory_format import memory_format
from .plan import Plan

#: By type of device, positions whose convolution costs as much as to merge a
#: kernel for them, with its gradient: on a CPU, with 256 channels, between 49
#: and 100 (benchmarks/merging.py). Where it was not measured nothing is merged.
MERGE_ABOVE: Mapping[str, float] = MappingProxyType(dict(cpu=50))


def merging_pays(pieces: Sequence[Tensor], plans: Sequence[Plan],
                 experts: Sequence[nn.Module],
                 merge_above: Mapping[str, float] = MERGE_ABOVE
                 ) -> List[bool]:
    """Where one merged convolution per sample is cheaper than K.

    Args:
        pieces: L tensors (n_l, C, h_l, w_l).
        plans: L, of the same samples.
        experts: E modules of any type; only alike convolutions are merged.
        merge_above: As of :func:`.sparse_dispatch`.

    Returns:
        L times whether.
    """
    if not _alike(experts):
        return [False] * len(pieces)
    stride = experts[0].stride[0] * experts[0].stride[1]
    positions = merge_above.get(pieces[0].device.type, math.inf) * stride
    return [
        # (K - 1) n convolutions are saved, n kernels are merged
        (plan.pairs - len(x)) * x.shape[2] * x.shape[3] > positions * len(x)
        for x, plan in zip(pieces, plans)
    ]


class MergedConvolution:
    """The mixture of convolutions, with a kernel of its own for each sample.

    Args:
        experts: The m convolutions that are busy, of the same shape. Their
            kernels are put into one table, for all levels that are merged.
    """

    def __init__(self, experts: Sequence[nn.Conv2d]) -> None:
        self.like = experts[0]
        # At least float32: the gradient of a weight is a sum over a kernel.
        self.dtype = torch.promote_types(self.like.weight.dtype, torch.float32)
        self.kernels = torch.stack(
            [e.weight.flatten().to(self.dtype) for e in experts])
        self.biases = None if self.like.bias is None else torch.stack(
            [e.bias.to(self.dtype) for e in experts])

    def __call__(self, x: Tensor, weights: Tensor) -> Tensor:
        """(n, C, H, W) features and (n, m) weights -> (n, C', H', W')."""
        like, n = self.like, len(x)
        with torch.autocast(x.device.type, enabled=False):
            weights = weights.to(self.dtype)
            kernels = _Blend.apply(weights, self.kernels).to(like.weight.dtype)
            bias = None if self.biases is None else (
                weights @ self.biases).flatten().to(kernels.dtype)
        y = F.conv2d(
            x.flatten(0, 1)[None],
            kernels.view(-1, *like.weight.shape[1:]),
            bias,
            stride=like.stride,
            padding=like.padding,
            dilation=like.dilation,
            groups=n * like.groups)
        return y.reshape(n, -1, *y.shape[-2:]).contiguous(
            memory_format=memory_format(x))


class _Blend(torch.autograd.Function):
    """The product of a small matrix (n, m) and a wide one (m, D): (n, D).

    As ``small @ wide``, but for the gradient of the small one, which is a sum
    over D that a matrix product does not divide between its threads.
    """

    @staticmethod
    def forward(ctx, small: Tensor, wide: Tensor) -> Tensor:
        ctx.save_for_backward(small, wide)
        return small @ wide

    @staticmethod
    @torch.compiler.disable  # it is called while a backward pass is compiled
    def backward(ctx, gradient: Tensor):
        small, wide = ctx.saved_tensors
        parts = (math.gcd(wide.shape[1], 64), -1)
        to_small = torch.einsum('npd,mpd->pnm', gradient.unflatten(1, parts),
                                wide.unflatten(1, parts)).sum(dim=0)
        return to_small, small.t() @ gradient


def _alike(experts: Sequence[nn.Module]) -> bool:
    """Whether all are convolutions that differ in their parameters only."""
    return all(
        type(e) is nn.Conv2d and e.padding_mode == 'zeros'
        and _shape(e) == _shape(experts[0])
        and 'forward' not in vars(e)  # it may be watched, or replaced
        and not (e._forward_hooks or e._forward_pre_hooks or e._backward_hooks
                 or e._backward_pre_hooks) for e in experts)


def _shape(conv: nn.Conv2d) -> tuple:
    return (conv.weight.shape, conv.bias is None, conv.stride, conv.padding,
            conv.dilation, conv.groups)
