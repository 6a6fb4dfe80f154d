"""Padding: tokens, and positions of maps, that make a batch rectangular.

A layer deep inside a decoder is given tokens and no mask. Whoever knows which
of them are real says so around the call; layers ask for it when they count.
Of maps a layer knows the sizes of the images (:class:`Images`), also when
activation checkpointing runs it again: gates decide from the image's own part.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import log2
from typing import Callable, Iterator, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

_REAL: ContextVar[Optional[Tensor]] = ContextVar('real tokens', default=None)
#: Of the map that a gate looks at, (N, 1, H, W), 1 in the image and 0 beside.
_SEEN: ContextVar[Optional[Tensor]] = ContextVar('seen part', default=None)


class Images(NamedTuple):
    """Where the images of a padded batch are: from its upper left corner on.

    Attributes:
        sizes: (B, 2) height and width of each image in pixels.
        whole: Height and width of the batch.
    """
    sizes: Tensor
    whole: Tuple[int, int]


def real_positions(images: Optional[Images],
                   shape: Sequence[int]) -> Optional[Tensor]:
    """Which positions of a map are about an image.

    A position is, if it begins in the image: of an image of h pixels these are
    the first ``ceil(h / stride)``, however far the batch goes.

    Args:
        images: Those of the batch.
        shape: (A, H, W) of a map, or the shape of anything else.

    Returns:
        (A, H, W) bool; None where it is not known, as for no map, or for one
        of other entries than the images.
    """
    if images is None or len(shape) != 3 or shape[0] != len(images.sizes):
        return None
    rows, columns = (
        torch.arange(n, device=size.device) <
        (size[:, None] / stride - 1e-6).ceil().clamp_min(1)
        for n, size, stride in zip(shape[1:], images.sizes.unbind(1),
                                   _strides(images.whole, shape[1:])))
    return rows[:, :, None] & columns[:, None]


def _strides(whole: Sequence[int],
             size: Sequence[int]) -> Tuple[float, float]:
    """Pixels from a position to the next: a power of 2 where that is possible,
    as the last positions of small maps go beyond the batch."""
    ratios = tuple(n / max(m, 1) for n, m in zip(whole, size))
    power = 2.0**round(log2(max(*ratios, 1)))
    fits = all(-(-n // power) == m for n, m in zip(whole, size))
    return (power, power) if fits else ratios


def looking(look: Callable[[Tensor], Tensor], mask: Optional[Tensor],
            x: Tensor) -> Tensor:
    """What a function sees of a map (N, C, H, W) of which a part is real,
    (N, H, W): :func:`seen_part` has that part inside of it."""
    if mask is None:
        return look(x)
    before = _SEEN.set(mask[:, None])
    try:
        return look(x)
    finally:
        _SEEN.reset(before)


def with_padding(look: Callable[[Tensor], Tensor], real: Sequence[Tensor],
                 maps: Sequence[Tensor]
                 ) -> Tuple[Callable[[Tensor], Tensor], Sequence[Tensor]]:
    """A function of maps and its maps, with what is real as one more channel,
    so that it is cut as the maps are."""
    joined = [torch.cat([x, mask[:, None].to(x)], dim=1)
              for x, mask in zip(maps, real)]
    return partial(_split, look), joined


def _split(look: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return looking(look, x[:, -1] > 0, x[:, :-1])


def seen_part(x: Tensor) -> Optional[Tensor]:
    """What is real of the map (N, C, H, W) that is looked at, (N, 1, H, W)
    bool; None if all of it is."""
    mask = _SEEN.get()
    return mask if mask is not None and (
        mask.shape[0], *mask.shape[2:]) == (len(x), *x.shape[2:]) else None


def without_padding(x: Tensor) -> Tensor:
    """A map (N, C, H, W) with zeros in the padding, as beyond its border."""
    mask = seen_part(x)
    return x if mask is None else x.where(mask, x.new_zeros(()))


@contextmanager
def real_tokens_are(mask: Optional[Tensor]) -> Iterator[None]:
    """Say which tokens are real, for the layers that are called inside.

    Padding is routed like everything else, so that outputs do not depend on
    this, but it does not count in the balance of the experts.

    Args:
        mask: (B, T) bool; None if all are.
    """
    before = _REAL.set(mask)
    try:
        yield
    finally:
        _REAL.reset(before)


def real_tokens(shape: Sequence[int]) -> Optional[Tensor]:
    """The mask for inputs of a shape (B, T); None if there is none."""
    mask = _REAL.get()
    return mask if mask is not None and mask.shape == tuple(shape) else None
