"""Memory format: what is ``channels_last`` stays so on its way to the experts.

``index_select``, ``new_zeros`` and a grouped convolution over samples give
tensors that are not, and a convolution would have to turn each of them.
"""
import torch
from torch import Tensor


def memory_format(x: Tensor) -> torch.memory_format:
    """``channels_last`` if x is so and nothing else, else contiguous."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(
        memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def memory_order(x: Tensor) -> tuple:
    """Arguments of ``movedim`` to see x with axes as they are in memory, and
    to see it as before."""
    if memory_format(x) == torch.channels_last:
        return (1, -1), (-1, 1)
    return (0, 0), (0, 0)
