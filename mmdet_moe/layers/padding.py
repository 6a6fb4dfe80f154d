"""Padding: tokens that are there only to make a batch rectangular.

A layer deep inside a decoder is given tokens and no mask. Whoever knows which
of them are real says so around the call; layers ask for it when they count.
"""
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Iterator, Optional, Sequence

from torch import Tensor

_REAL: ContextVar[Optional[Tensor]] = ContextVar('real tokens', default=None)


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
