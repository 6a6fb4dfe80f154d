"""Experts: any module that maps (n, C, H, W) to a tensor with n rows, or, with
a scope of rows, (n, C).

A convolution (ConvMoE), a ResNet block (BlockMoE) or stage, and a subnet
(tower and predictor, as one ``nn.Sequential``) are used as they are. Here is
what makes experts out of them, and what a layer has to know of them.
"""
import copy
from typing import Optional

import torch
from torch import Tensor, nn

from .checks import ConfigError, check_int


def fresh_copy(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with parameters drawn anew.

    Every submodule with a ``reset_parameters`` method is reset; a parameter
    that belongs to none of them keeps its value.
    """
    module = copy.deepcopy(module)
    for layer in module.modules():
        if hasattr(layer, 'reset_parameters'):
            layer.reset_parameters()
    return module


def without_in_place(expert: nn.Module) -> nn.Module:
    """The same expert, but its first module leaves its input as it is.

    Several experts, and the caller, read the same features.
    """
    branches = expert.values() if isinstance(expert, Parallel) else [expert]
    for branch in branches:
        for module in branch.modules():
            if any(True for _ in module.children()):
                continue
            if not getattr(module, 'inplace', False):
                break
            module.inplace = False
    return expert


class FeedForward(nn.Sequential):
    """Linear, ReLU, linear: (..., C) -> (..., C).

    Args:
        channels: C.
        hidden_channels: Of what is between the two; C if None.
    """

    def __init__(self,
                 channels: int,
                 hidden_channels: Optional[int] = None) -> None:
        hidden = channels if hidden_channels is None else hidden_channels
        super().__init__(
            nn.Linear(check_int('channels', channels, 1),
                      check_int('hidden_channels', hidden, 1)),
            nn.ReLU(inplace=True), nn.Linear(hidden, channels))


class Parallel(nn.ModuleDict):
    """An expert of several modules on the same input, for a common gate.

    Their outputs (n, C_i, H, W) are concatenated to (n, sum C_i, H, W).
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([module(x) for module in self.values()], dim=1)


class BothOutcomes(nn.Module):
    """Ends an expert whose probabilities are to be mixed, not its logits.

    (n, C, H, W) logits -> (n, 2 C, H, W) float32: the probabilities of yes,
    then those of no. Mixtures of both are kept, so that neither end of the
    scale is rounded away; :func:`logits_of` turns the mixture back.
    """

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, -x], dim=1).float().sigmoid()


def logits_of(outcomes: Tensor) -> Tensor:
    """Mixed probabilities of :class:`BothOutcomes` -> logits (n, C, H, W)."""
    tiny = torch.finfo(outcomes.dtype).tiny
    yes, no = outcomes.clamp_min(tiny).log().chunk(2, dim=1)
    return yes - no


#: Modules that treat every position alike and look at no other one.
_POINTWISE = (nn.BatchNorm2d, nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU,
              nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Dropout,
              BothOutcomes)


def check_local(expert: nn.Module, key: str) -> None:
    """Check that a position's output depends on its neighbourhood only.

    Seen are the modules; what a ``forward`` of one's own does between them,
    or with one of them twice, is not.

    Args:
        expert: The expert.
        key: The option that requires it, for the message.

    Raises:
        ValueError: It has a module that looks at the whole map, changes its
            size, or is not known.
    """
    for name, module in expert.named_modules():
        if any(True for _ in module.children()):
            continue
        if isinstance(module, nn.Conv2d):
            same = module.padding == 'same' or (
                module.padding != 'valid' and all(
                    2 * p == d * (k - 1) for p, d, k in zip(
                        module.padding, module.dilation, module.kernel_size)))
            if (set(module.stride) == {1} and same
                    and module.padding_mode == 'zeros'):
                continue
        elif isinstance(module, _POINTWISE):
            continue
        raise ConfigError(
            f'{key}: experts may have convolutions with stride 1 that keep the '
            f'size, activations and BatchNorm, but {name or "the expert"} is '
            f'{module!r}. Use no norm or BatchNorm, a block with stride 1, or '
            "scope=dict(type='LevelScope')")


def check_pointwise(expert: nn.Module, key: str) -> None:
    """Check that an output depends on the features at its place alone.

    As with :func:`check_local`, what a ``forward`` of one's own does is not
    seen.

    Args:
        expert: The expert.
        key: The option that requires it, for the message.

    Raises:
        ValueError: It has a module that looks further, or is not known.
    """
    for name, module in expert.named_modules():
        if any(True for _ in module.children()):
            continue
        if isinstance(module, nn.Conv2d):
            if (set(module.kernel_size) == {1} and set(module.stride) == {1}
                    and module.padding in (0, (0, 0), 'same', 'valid')):
                continue
        elif isinstance(module, (nn.Linear, nn.LayerNorm, *_POINTWISE)):
            continue
        raise ConfigError(
            f'{key}: experts may be feed-forward networks and 1x1 convolutions '
            f'with stride 1, which look at no neighbour, but '
            f'{name or "the expert"} is {module!r}. Put experts into a 1x1 '
            "convolution, use expert='ffn' where there is that option, or "
            "scope=dict(type='PatchScope') or dict(type='LevelScope')")


def receptive_radius(module: nn.Module) -> int:
    """How far, in positions, an output may look; of same-size convolutions."""
    if isinstance(module, nn.Conv2d):
        return max(
            (d * (k - 1) + 1) // 2  # an even kernel looks further one way
            for d, k in zip(module.dilation, module.kernel_size))
    radii = [receptive_radius(child) for child in module.children()]
    return max(radii, default=0) if isinstance(module, Parallel) else sum(radii)
