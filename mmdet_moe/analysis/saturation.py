"""Router saturation: when in a training the gates have made up their minds.

How many of the experts that the last checkpoint selects an earlier one selects
for the same decision about the same picture (OLMoE, Muennighoff et al. 2024,
arXiv 2409.02060).
"""
from dataclasses import dataclass
from typing import Dict, List, Sequence

import numpy as np
import torch
from mmengine.runner import Runner
from tqdm import tqdm

from mmdet_moe.files import DataError
from mmdet_moe.hooks import check_fit
from mmdet_moe.layers import moe_layers
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.models.reporting import report_decisions


@dataclass(frozen=True)
class Saturation:
    """How early a layer selects what it selects at the end, checkpoint by
    checkpoint.

    Attributes:
        overlap: Part of the selected experts that are those of the last
            checkpoint; the last is 1.
        chance: What is to be expected of two gates that use each expert as
            often as these, but decide independently.
    """
    overlap: List[float]
    chance: List[float]


def saturation(runner: Runner,
               checkpoints: Sequence[str]) -> Dict[str, Saturation]:
    """Run the test pictures with each checkpoint of a training.

    What the gates see is of the same checkpoint as they are, so it is the
    whole detector that has come to rest. The selection of each position of
    all pictures is kept, E bytes for each. Regions and queries are left out:
    those of two checkpoints are not the same.

    Args:
        runner: Of the training's config.
        checkpoints: In the order of the training; the last one is what the
            others are compared with.

    Returns:
        By the name of a MoE layer.

    Raises:
        ValueError: The model has no MoE layer that decides about pictures.
        DataError: A checkpoint is not one of this model.
    """
    if not moe_layers(runner.model):
        raise ConfigError(f'{runner.cfg.filename}: the model has no MoE layer')
    report_decisions(runner.model)
    check_fit(runner)
    runner.call_hook('before_run')  # a hook may hold the weights to use
    for checkpoint in checkpoints:
        # One that does not fit is named before the first of many passes.
        try:
            runner.load_checkpoint(checkpoint, map_location='cpu')
        except DataError as error:
            raise DataError(f'{checkpoint}: {error}') from None
    final = _selected(runner, checkpoints[-1])
    if not final:
        raise ConfigError(
            f'{runner.cfg.filename}: no MoE layer of the model decides about '
            'pictures, levels, patches or positions')
    rows = {name: [] for name in final}
    for checkpoint in checkpoints:
        earlier = final if checkpoint == checkpoints[-1] else _selected(
            runner, checkpoint)
        for name, own in rows.items():
            own.append(overlap(earlier[name], final[name]))
    return {name: Saturation(*map(list, zip(*own)))
            for name, own in rows.items()}


def overlap(selected: np.ndarray, final: np.ndarray) -> tuple:
    """(N, E) bool each, K of them True in a row -> the mean part of the final
    ones that are selected, and what it would be by chance."""
    k = final.sum(axis=1).mean()
    return (float((selected & final).sum(axis=1).mean() / k),
            float(selected.mean(axis=0) @ final.mean(axis=0) / k))


@torch.no_grad()
def _selected(runner: Runner, checkpoint: str) -> Dict[str, np.ndarray]:
    """By layer (N, E) bool: which experts are selected."""
    runner.load_checkpoint(checkpoint, map_location='cpu')
    runner.model.eval()
    found: Dict[str, List[np.ndarray]] = {}
    for batch in tqdm(runner.test_dataloader, desc=checkpoint, leave=False):
        for sample in runner.model.test_step(batch):
            for name, decision in sample.decisions.items():
                if decision.about == 'pictures' and not decision.scope.rows:
                    found.setdefault(name, []).append(
                        decision.weights.numpy() > 0)
    return {name: np.concatenate(own) for name, own in found.items()}
