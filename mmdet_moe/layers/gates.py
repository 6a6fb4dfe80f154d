"""Gates: features (N, C, H, W) -> logits (N, E).

Pavlitska et al. 2022, section III-A (GAP-FC and Conv-GAP gates); 2Conv-GAP
after arXiv 2604.13761; noise after Shazeer et al. 2017, equation 4.
"""
from typing import Callable, Optional, Sequence, Union

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import check_int
from .registry import Registry


def global_average_pool(x: Tensor) -> Tensor:
    """(N, C, H, W) -> float32 (N, C)."""
    # Unlike that of a mean, the gradient of a sum is a view, not a new map.
    total = x.sum(dim=(-2, -1), dtype=torch.float32)
    return total / (x.shape[-2] * x.shape[-1])


class Gate(nn.Module):
    """Base of all gates: float32 logits, whatever the autocast state.

    A gate implements :meth:`logits`; one that pools and then decides may
    implement :meth:`look` and :meth:`score` instead, of which the second is
    done once for all levels.

    Gates hold their parameters directly rather than in ``nn.Linear`` or
    ``nn.Conv2d``: detector heads initialise every layer of those types with a
    rule that is meant for predictors.

    Attributes:
        learned: Whether the features decide; only then can there be noise
            and constraints.
        pools: Whether it looks at the global average pool of the features,
            as the noise does, so that it is not computed again.

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
    """
    learned = True
    pools = False

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__()
        self.in_channels = check_int('in_channels', in_channels, 1)
        self.num_experts = check_int('num_experts', num_experts, 1)

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if 'logits' in vars(cls) and cls.look is not Gate.look:
            raise TypeError(
                f'{cls.__name__}.logits would not be used: a class above has '
                "'look' and 'score'; implement these, or start from Gate")

    def forward(self,
                x: Union[Tensor, Sequence[Tensor]],
                decide: Callable = lambda look, x: look(x)) -> Tensor:
        """(N, C, H, W) -> float32 logits (N, E).

        Args:
            x: The features, or what else ``decide`` takes.
            decide: Given :meth:`look` and x, what is seen of the N samples;
                a layer has its scope do that.
        """
        device = (x if isinstance(x, Tensor) else x[0]).device
        with torch.autocast(device.type, enabled=False):
            return self.score(decide(self.look, x))

    def logits(self, x: Tensor) -> Tensor:
        """float32 (N, C, H, W) -> (N, E)."""
        raise NotImplementedError

    def look(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> what the decision is made of, float32 (N, ...)."""
        return self.logits(x.float())

    def score(self, seen: Tensor) -> Tensor:
        """What :meth:`look` gave -> logits (N, E); an affine map, so that it
        may be applied to a mean over levels."""
        return seen

    def extra_repr(self) -> str:
        return f'{self.in_channels}, num_experts={self.num_experts}'


GATES = Registry(Gate)


@GATES.register
class GAPFCGate(Gate):
    """Global average pool, then a fully connected layer."""
    pools = True

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__(in_channels, num_experts)
        self.weight = nn.Parameter(torch.empty(num_experts, in_channels))
        self.bias = nn.Parameter(torch.empty(num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_affine(self.weight, self.bias)

    def look(self, x: Tensor) -> Tensor:
        return global_average_pool(x)

    def score(self, seen: Tensor) -> Tensor:
        return _affine(seen, self.weight, self.bias)


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
        return _convolve(x.float(), self.conv_weight, self.conv_bias).relu()


@GATES.register
class ConvGAPGate(ConvolutionalGate):
    """3x3 convolution, ReLU, global average pool, fully connected layer.

    Args:
        args: As of :class:`ConvolutionalGate`.
    """

    def __init__(self,
                 in_channels: int,
                 num_experts: int,
                 hidden_channels: Optional[int] = None) -> None:
        super().__init__(in_channels, num_experts, hidden_channels)
        self.weight = nn.Parameter(
            torch.empty(num_experts, self.hidden_channels))
        self.bias = nn.Parameter(torch.empty(num_experts))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_conv(self.conv_weight, self.conv_bias)
        _reset_affine(self.weight, self.bias)

    def look(self, x: Tensor) -> Tensor:
        return global_average_pool(self.hidden(x))

    def score(self, seen: Tensor) -> Tensor:
        return _affine(seen, self.weight, self.bias)


@GATES.register
class TwoConvGAPGate(ConvolutionalGate):
    """2Conv-GAP: 3x3 convolution, ReLU, 3x3 convolution to E channels, pool.

    Args:
        args: As of :class:`ConvolutionalGate`.
    """

    def __init__(self,
                 in_channels: int,
                 num_experts: int,
                 hidden_channels: Optional[int] = None) -> None:
        super().__init__(in_channels, num_experts, hidden_channels)
        self.weight, self.bias = _conv3x3(self.hidden_channels, num_experts)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_conv(self.conv_weight, self.conv_bias)
        _reset_conv(self.weight, self.bias)

    def logits(self, x: Tensor) -> Tensor:
        return global_average_pool(
            _convolve(self.hidden(x), self.weight, self.bias))


@GATES.register
class EqualGate(Gate):
    """Static: all logits equal, so the first K experts get 1/K each.

    With ``top_k = num_experts`` it is the plain mean of all experts.
    """
    learned = False

    def logits(self, x: Tensor) -> Tensor:
        return x.new_zeros(len(x), self.num_experts)


@GATES.register
class SingleExpertGate(Gate):
    """Static: always the same expert, with weight 1.

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
        expert: Which one.
    """
    learned = False
    never = -1e4  # exp of it is 0; finite, so that another can be forced

    def __init__(self,
                 in_channels: int,
                 num_experts: int,
                 expert: int = 0) -> None:
        super().__init__(in_channels, num_experts)
        self.expert = check_int('expert', expert, 0, num_experts - 1)

    def logits(self, x: Tensor) -> Tensor:
        logits = x.new_full((len(x), self.num_experts), self.never)
        logits[:, self.expert] = 0
        return logits


class GateNoise(nn.Module):
    """The learned scale of Gaussian noise on the logits.

    ``softplus(W_noise . GAP(x)) + 0.01``, W_noise zero-initialised (Shazeer
    et al. 2017, equation 4).

    Args:
        in_channels: C, channels of the features.
        num_experts: E, number of logits.
    """
    floor = 1e-2

    def __init__(self, in_channels: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_experts, in_channels))

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features (N, C) -> float32 standard deviations (N, E)."""
        with torch.autocast(pooled.device.type, enabled=False):
            return F.softplus(
                F.linear(pooled.float(), self.weight.float())) + self.floor


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
