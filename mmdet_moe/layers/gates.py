"""Gates: features (N, C, H, W) -> logits (N, E).

METHOD: Pavlitska et al. 2022, section III-A (GAP-FC and Conv-GAP gates);
noise after Shazeer et al. 2017, equation 4.
"""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_int


def global_average_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C)."""
    return x.mean(dim=(-2, -1))


class Gate(nn.Module):
    """Base of all gates: float32 logits, whatever the autocast state.

    A gate implements :meth:`logits`. Gates hold their parameters directly
    rather than in ``nn.Linear`` or ``nn.Conv2d``: detector heads initialise
    every layer of those types with a rule that is meant for predictors.

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
    """

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__()
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.num_experts = check_int('num_experts', num_experts, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> float32 logits (N, E)."""
        with torch.autocast(x.device.type, enabled=False):
            return self.logits(x.float())

    def logits(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f'{self.in_channels}, num_experts={self.num_experts}'


class GAPFCGate(Gate):
    """Global average pool, then a fully connected layer."""

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__(in_channels, num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, in_channels))
        self.bias = nn.Parameter(torch.empty(num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_affine(self.weight, self.bias)

    def logits(self, x: Tensor) -> Tensor:
        return _affine(global_average_pool(x), self.weight, self.bias)


class ConvGAPGate(Gate):
    """3x3 convolution, ReLU, global average pool, fully connected layer.

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
        hidden_channels: Channels of the convolution; C if None.
    """

    def __init__(self,
                 in_channels: int,
                 num_experts: int,
                 hidden_channels: Optional[int] = None) -> None:
        super().__init__(in_channels, num_experts)
        hidden = in_channels if hidden_channels is None else check_int(
            'hidden_channels', hidden_channels, 1)
        self.conv_weight = nn.Parameter(torch.empty(hidden, in_channels, 3, 3))
        self.conv_bias = nn.Parameter(torch.empty(hidden))
        self.weight = nn.Parameter(torch.empty(num_experts, hidden))
        self.bias = nn.Parameter(torch.empty(num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.conv_weight, nonlinearity='relu')
        nn.init.zeros_(self.conv_bias)
        _reset_affine(self.weight, self.bias)

    def logits(self, x: Tensor) -> Tensor:
        hidden = F.conv2d(
            x, self.conv_weight.float(), self.conv_bias.float(), padding=1)
        return _affine(
            global_average_pool(hidden.relu()), self.weight, self.bias)


class GateNoise(nn.Module):
    """Learned Gaussian noise on the logits, drawn anew at every call.

    ``eps * (softplus(W_noise . GAP(x)) + 0.01)``, eps ~ N(0, 1), W_noise
    zero-initialised (Shazeer et al. 2017, equation 4).

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
    """
    floor = 1e-2

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_experts, in_channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> float32 noise (N, E)."""
        with torch.autocast(x.device.type, enabled=False):
            scale = F.softplus(
                F.linear(global_average_pool(x.float()), self.weight.float()))
            return torch.randn_like(scale) * (scale + self.floor)


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Fully connected, in float32 even in a model that was cast to half."""
    return F.linear(x, weight.float(), bias.float())


def _reset_affine(weight: Tensor, bias: Tensor) -> None:
    bound = weight.shape[1]**-0.5
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


GATES = {'GAPFCGate': GAPFCGate, 'ConvGAPGate': ConvGAPGate}
