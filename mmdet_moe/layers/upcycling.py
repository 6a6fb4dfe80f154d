"""Upcycling: start the experts as copies of a trained dense layer.

Copies whose weights sum to 1 are the dense layer, so a detector that is
upcycled equals the dense one, until noise or training makes the experts
differ (Komatsuzaki et al. 2022, arXiv 2212.05055, and the copies of the
paper's recipe).
"""
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional

import torch
from torch import Tensor, nn

from .moe import MoELayer, moe_layers


@dataclass
class UpcyclingReport:
    """What was copied, and what did not match.

    Attributes:
        copied: Keys of the MoE model by the dense key that they came from.
        new: Keys that no dense model has: gates, states of constraints.
        missing: Keys that should be in the dense state but are not.
        reshaped: Keys whose shapes differ, with both.
        unused: Dense keys that no part of the MoE model wants.
    """
    copied: Dict[str, List[str]] = field(default_factory=dict)
    new: List[str] = field(default_factory=list)
    missing: List[str] = field(default_factory=list)
    reshaped: List[str] = field(default_factory=list)
    unused: List[str] = field(default_factory=list)

    @property
    def matches(self) -> bool:
        """Whether every key that should have a partner has one."""
        return not (self.missing or self.reshaped or self.unused)

    def __str__(self) -> str:
        lines = [
            f'{len(self.copied)} dense keys copied to '
            f'{sum(map(len, self.copied.values()))} keys'
        ]
        for title, keys in (
            ('new in the MoE model, left as initialised', self.new),
            ('missing in the dense checkpoint', self.missing),
            ('of another shape in the dense checkpoint', self.reshaped),
            ('in the dense checkpoint only', self.unused)):
            if keys:
                lines.append(f'{len(keys)} {title}:')
                lines += [f'  {key}' for key in keys]
        return '\n'.join(lines)


def dense_key(model: nn.Module, key: str) -> Optional[str]:
    """The dense model's name of a key of the MoE model's state.

    ``bbox_head.cls_subnet.experts.2.0.conv.weight`` is
    ``bbox_head.cls_convs.0.conv.weight`` in RetinaNet, and
    ``neck.fpn_convs.0.conv.experts.2.weight`` is
    ``neck.fpn_convs.0.conv.weight`` in FPN. None for what only MoE has.
    """
    return _dense_key(_under_all_names(model), key)


def _under_all_names(model: nn.Module) -> Dict[str, MoELayer]:
    """MoE layers by name; one that a model has twice is there twice, as in
    the model's state."""
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, MoELayer)
    }


def _dense_key(layers: Mapping[str, MoELayer], key: str) -> Optional[str]:
    for name, layer in layers.items():
        prefix = f'{name}.' if name else ''
        if key.startswith(prefix):
            part = key[len(prefix):]
            if not part.startswith('experts.') or layer.dense_names == {}:
                return None
            part = part.split('.', 2)[2]
            return _beside(name, layer, part)
    return key


def _beside(name: str, layer: MoELayer, part: str) -> str:
    if layer.dense_names is None:
        return f'{name}.{part}' if name else part
    parent = name.rpartition('.')[0]
    for start, dense in layer.dense_names.items():
        if part == start or part.startswith(f'{start}.'):
            dense = dense + part[len(start):]
            return f'{parent}.{dense}' if parent else dense
    raise KeyError(f'{name}: no dense name for {part}')


def upcycle(model: nn.Module, dense_state: Mapping[str, Tensor]
            ) -> UpcyclingReport:
    """Load a dense model's state into a MoE model of the same architecture.

    The model is changed only if everything matches.

    Args:
        model: With MoE layers.
        dense_state: ``state_dict`` of the model without them.

    Returns:
        What was copied, or what does not match.
    """
    report = UpcyclingReport()
    state = {}
    report.missing = [
        f'{name}: {layer.beyond_dense}'
        for name, layer in moe_layers(model).items() if layer.beyond_dense
    ]
    layers = _under_all_names(model)
    for key, value in model.state_dict().items():
        dense = _dense_key(layers, key)
        if dense is None:
            report.new.append(key)
        elif dense not in dense_state:
            report.missing.append(f'{key} (dense: {dense})')
        elif dense_state[dense].shape != value.shape:
            report.reshaped.append(
                f'{key}: {tuple(value.shape)}, in the checkpoint '
                f'{tuple(dense_state[dense].shape)}')
            report.copied.setdefault(dense, [])
        else:
            report.copied.setdefault(dense, []).append(key)
            state[key] = dense_state[dense]
    report.unused = [key for key in dense_state if key not in report.copied]
    if report.matches:
        model.load_state_dict(state, strict=False)
    return report


@torch.no_grad()
def add_noise(model: nn.Module, scale: float) -> None:
    """Make experts that are copies of each other differ.

    Adds Gaussian noise to every parameter of every expert, once if the model
    has it under several names.

    Args:
        model: With MoE layers.
        scale: Standard deviation of the noise, as a part of the standard
            deviation of each parameter tensor.
    """
    experts = nn.ModuleList(
        layer.experts for layer in moe_layers(model).values())
    for parameter in experts.parameters():
        if parameter.numel() > 1:
            spread = parameter.std()
            parameter += scale * spread * torch.randn_like(parameter)
