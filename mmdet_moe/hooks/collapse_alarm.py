"""Collapse: a gate that says the same of every input, or dead experts."""
import logging
from typing import Dict, Iterable, Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmdet_moe.layers import (
    MoELayer,
    living_experts,
    split_usage,
    usage_sums,
)
from mmdet_moe.layers.distributed import all_reduce_sum
from mmdet_moe.layers.statistics import entropy_bits, signs_of_collapse


class CollapseAlarm:
    """Looks at the decisions of a validation, and warns of collapse.

    Balance and AP do not show it: a gate that sends everything to the same
    two experts, half and half, is an ensemble of two and no mixture.

    Args:
        layers: The MoE layers by name.
    """

    def __init__(self, layers: Mapping[str, MoELayer]) -> None:
        self.layers = dict(layers)
        self._sums: Dict[str, Tensor] = {}

    def see(self, samples: Iterable) -> None:
        """Count the decisions that data samples carry, or the frames of those
        of videos, if any."""
        for sample in samples:
            frames = _field(sample, 'video_data_samples', [sample])
            for decisions in (_field(x, 'decisions', {}) for x in frames):
                for name, decision in decisions.items():
                    self._sums[name] = self._sums.get(name, 0) + usage_sums(
                        decision.of_images(decision.weights))[0]

    def result(self) -> Dict[str, Dict[str, float]]:
        """By layer, over all ranks: ``input_dependence``, H(mean w) - mean
        H(w) in bits, and ``living_experts``. Warns, and forgets."""
        own, self._sums = self._sums, {}
        # Every rank takes part, also one without such a decision.
        parts = [
            own.get(name, torch.zeros(2 * layer.num_experts + 2)).double()
            for name, layer in self.layers.items()
        ]
        if not parts:
            return {}
        device = next(next(iter(self.layers.values())).parameters()).device
        total = all_reduce_sum(torch.cat(parts).to(device)).cpu()
        found = {}
        for (name, layer), part in zip(self.layers.items(),
                                       total.split(list(map(len, parts)))):
            number, bits, weights, load = split_usage(part)
            if not number:
                continue
            bits = max(0, (entropy_bits(weights / number) -
                           bits / number).item())
            living = living_experts(load)
            found[name] = dict(input_dependence=bits, living_experts=living)
            self._warn(name, layer, bits, living)
        return found

    def _warn(self, name: str, layer: MoELayer, bits: float,
              living: int) -> None:
        if not layer.chooses:
            return  # nothing to learn, or not what was learned
        wrong = signs_of_collapse(bits, living, layer.num_experts, layer.top_k)
        if wrong:
            print_log(
                f'The gate of {name} has collapsed: ' + ', and '.join(wrong) +
                '. The layer is an ensemble of the same experts for '
                'everything. A soft constraint that sees the logits of all '
                "experts, such as dict(type='EntropyLoss'), or "
                "hard_constraint=dict(type='LossFreeBias') brings experts "
                'back; another scope gives the gate more to see.',
                logger='current',
                level=logging.WARNING)


def _field(sample, name: str, default):
    """A field of a data sample; the default of what is none."""
    return sample.get(name, default) if hasattr(sample, 'get') else default
