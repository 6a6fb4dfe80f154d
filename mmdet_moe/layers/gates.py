"""Gates: what a layer sees of N samples -> logits (N, E).

A sample is a map (C, H, W), or a row (C,) where decisions are about rows, such
as regions, queries or positions.

Pavlitska et al. 2022, section III-A (GAP-FC and Conv-GAP gates); 2Conv-GAP
after arXiv 2604.13761; noise after Shazeer et al. 2017, equation 4.
"""
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_int
from .padding import seen_part, without_padding
from .registry import Registry


def global_average_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> float32 (N, C); rows (N, C) are their own average.

    Of a padded batch the average is over the image's own positions.
    """
    if x.dim() == 2:
        return x.float()
    real = seen_part(x)
    if real is not None:
        total = without_padding(x).sum(dim=(-2, -1), dtype=torch.float32)
        return total / real.sum(dim=(-2, -1)).clamp_min(1)
    # Unlike that of a mean, the gradient of a sum is a view, not a new map.
    total = x.sum(dim=(-2, -1), dtype=torch.float32)
    return total / (x.shape[-2] * x.shape[-1])


class Gate(nn.Module):
    """Base of all gates: float32 logits, whatever the autocast state.

    A gate implements :meth:`features`, what it sees of the samples, and
    :meth:`logits`, an affine map of that. A layer asks for the features level
    by level and then calls the gate once, with the features of all samples:
    ``logits = gate(scope.decide(gate.features, levels))``.

    Gates hold their parameters directly rather than in ``nn.Linear`` or
    ``nn.Conv2d``, and none of them is called ``weight`` or ``bias``: detector
    heads initialise whatever has such a type, or such an attribute, with a
    rule that is meant for predictors.

    Attributes:
        learned: Whether it is trained; only then can there be noise and soft
            constraints.
        looks: Whether the features decide; only then can there be a hard
            constraint.
        pools: Whether its features are the global average pool, which the
            noise needs as well, so that it is not computed again.
        takes_rows: Whether a sample may be a row (C,) rather than a map.
        per_expert: Names of the parameters and buffers whose first axis are
            the experts, so that experts can be taken out. A gate without the
            attribute cannot do without one of its experts.

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
    """
    learned = True
    looks = True
    pools = False
    takes_rows = False

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__()
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.num_experts = check_int('num_experts', num_experts, 1)

    def forward(self, features: Tensor) -> Tensor:
        """What :meth:`features` gave, float32 (N, ...) -> logits (N, E)."""
        with torch.autocast(features.device.type, enabled=False):
            return self.logits(features)

    def features(self, x: Tensor) -> Tensor:
        """What the decision is made of: (N, C, H, W), or rows (N, C) ->
        float32 (N, ...). Called with autocast disabled."""
        raise NotImplementedError

    def logits(self, features: Tensor) -> Tensor:
        """What :meth:`features` gave -> (N, E); those themselves unless
        overridden."""
        return features

    def extra_repr(self) -> str:
        return f'{self.in_channels}, num_experts={self.num_experts}'


GATES = Registry(Gate)


@GATES.register
class GAPFCGate(Gate):
    """Global average pool, then a fully connected layer."""
    per_expert = ('fc_weight', 'fc_bias')
    pools = True
    takes_rows = True

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__(in_channels, num_experts)
        self.fc_weight = nn.Parameter(torch.empty(num_experts, in_channels))
        self.fc_bias = nn.Parameter(torch.empty(num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_affine(self.fc_weight, self.fc_bias)

    def features(self, x: Tensor) -> Tensor:
        return global_average_pool(x)

    def logits(self, features: Tensor) -> Tensor:
        return _affine(features, self.fc_weight, self.fc_bias)


class ConvolutionalGate(Gate):
    """Base of gates that start with a 3x3 convolution and ReLU.

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
        self.hidden_channels = in_channels if hidden_channels is None else (
            check_int('hidden_channels', hidden_channels, 1))
        self.conv_weight, self.conv_bias = _conv3x3(in_channels,
                                                    self.hidden_channels)

    def hidden(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> float32 (N, hidden, H, W)."""
        return _convolve(
            without_padding(x.float()), self.conv_weight,
            self.conv_bias).relu()


@GATES.register
class ConvGAPGate(ConvolutionalGate):
    """3x3 convolution, ReLU, global average pool, fully connected layer.

    Args:
        args: As of :class:`ConvolutionalGate`.
    """
    per_expert = ('fc_weight', 'fc_bias')

    def __init__(self,
                 in_channels: int,
                 num_experts: int,
                 hidden_channels: Optional[int] = None) -> None:
        super().__init__(in_channels, num_experts, hidden_channels)
        self.fc_weight = nn.Parameter(
            torch.empty(num_experts, self.hidden_channels))
        self.fc_bias = nn.Parameter(torch.empty(num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_conv(self.conv_weight, self.conv_bias)
        _reset_affine(self.fc_weight, self.fc_bias)

    def features(self, x: Tensor) -> Tensor:
        return global_average_pool(self.hidden(x))

    def logits(self, features: Tensor) -> Tensor:
        return _affine(features, self.fc_weight, self.fc_bias)


@GATES.register
class TwoConvGAPGate(ConvolutionalGate):
    """2Conv-GAP: 3x3 convolution, ReLU, 3x3 convolution to E channels, pool.

    Args:
        args: As of :class:`ConvolutionalGate`.
    """
    per_expert = ('last_weight', 'last_bias')

    def __init__(self,
                 in_channels: int,
                 num_experts: int,
                 hidden_channels: Optional[int] = None) -> None:
        super().__init__(in_channels, num_experts, hidden_channels)
        self.last_weight, self.last_bias = _conv3x3(self.hidden_channels,
                                                    num_experts)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_conv(self.conv_weight, self.conv_bias)
        _reset_conv(self.last_weight, self.last_bias)

    def features(self, x: Tensor) -> Tensor:
        return global_average_pool(
            _convolve(
                without_padding(self.hidden(x)), self.last_weight,
                self.last_bias))


class GateNoise(nn.Module):
    """The learned scale of Gaussian noise on the logits.

    ``softplus(W_noise . GAP(x)) + 0.01``, W_noise zero-initialised (Shazeer
    et al. 2017, equation 4).

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
    """
    floor = 1e-2
    per_expert = ('scale_weight', )

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__()
        self.scale_weight = nn.Parameter(
            torch.zeros(num_experts, in_channels))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (N, C) -> float32 standard deviations (N, E)."""
        with torch.autocast(pooled.device.type, enabled=False):
            scale = F.linear(pooled.float(), self.scale_weight.float())
            return F.softplus(scale) + self.floor


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Fully connected, in float32 even in a model that was cast to half."""
    return F.linear(x, weight.float(), bias.float())


def _reset_affine(weight: Tensor, bias: Tensor) -> None:
    bound = weight.shape[1]**-0.5
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


def _conv3x3(in_channels: int, out_channels: int):
    return (nn.Parameter(torch.empty(out_channels, in_channels, 3, 3)),
            nn.Parameter(torch.empty(out_channels)))


def _convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(x, weight.float(), bias.float(), padding=1)


def _reset_conv(weight: Tensor, bias: Tensor) -> None:
    nn.init.kaiming_normal_(weight, nonlinearity='relu')
    nn.init.zeros_(bias)
