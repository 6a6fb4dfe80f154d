"""The precision that autocast computes in."""
from typing import Optional

import torch


def autocast_dtype(device: str) -> Optional[torch.dtype]:
    """What linear layers compute in on a type of device, such as ``'cuda'``;
    None if autocast is not enabled for it."""
    try:
        enabled = torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if enabled else None
    except TypeError:  # before PyTorch 2.4
        pass
    if device == 'cpu':
        return (torch.get_autocast_cpu_dtype()
                if torch.is_autocast_cpu_enabled() else None)
    return (torch.get_autocast_gpu_dtype()
            if torch.is_autocast_enabled() else None)
