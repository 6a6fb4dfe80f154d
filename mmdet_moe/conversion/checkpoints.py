"""Checkpoints of dense detectors, and how a MoE detector takes one."""
import os
from typing import Dict, Mapping, Tuple

import torch
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmdet_moe.files import DataError
from mmdet_moe.layers import UpcyclingReport, moe_layers, upcycle
from mmdet_moe.trust import check_checkpoint


class UpcyclingError(DataError):
    """The checkpoint does not fit, or the result is not the dense model."""


def read_checkpoint(checkpoint: str) -> dict:
    """All of a checkpoint of MMDetection, with ``state_dict`` and ``meta``.

    Raises:
        DataError: There is no such file, or it would run code.
        UpcyclingError: The file holds no weights.
    """
    check_checkpoint(checkpoint)
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    if not isinstance(content, dict):
        raise UpcyclingError(f'{checkpoint} is not a checkpoint')
    state = content.get('state_dict', content)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UpcyclingError(f'{checkpoint} has no state_dict')
    rest = content if 'state_dict' in content else {}
    return dict(
        rest,
        # Detectors saved out of DistributedDataParallel.
        state_dict={key.removeprefix('module.'): value
                    for key, value in state.items()},
        meta=dict(rest.get('meta') or {}))


def read_state(checkpoint: str) -> Tuple[Dict[str, Tensor], dict]:
    """Weights and meta information of a checkpoint; errors as of
    :func:`read_checkpoint`."""
    content = read_checkpoint(checkpoint)
    return content['state_dict'], content['meta']


def load_dense(model: nn.Module, state: Mapping[str, Tensor],
               checkpoint: str) -> UpcyclingReport:
    """Copy a dense detector's weights into a MoE detector; see
    :func:`.upcycle`.

    Args:
        model: With MoE layers.
        state: As :func:`read_state` returns it.
        checkpoint: Where it was read from, for the messages.

    Raises:
        UpcyclingError: The model has no experts, or a key does not match.
    """
    if not moe_layers(model):
        raise UpcyclingError('the model has no MoE layer to upcycle to')
    report = upcycle(model, state)
    if not report.matches:
        raise UpcyclingError(
            f'{checkpoint} is not of the same detector without experts. It '
            'must have the same backbone, neck, head and number of classes, '
            f'and no experts.\n{report}')
    return report


def write_state(out: str, state: Mapping[str, Tensor], meta: Mapping,
                **made: object) -> None:
    """Write a checkpoint that was made of another one; whole, or not at all.

    Args:
        out: The file.
        state: The weights.
        meta: Of the other checkpoint; its classes are kept.
        made: What else the meta information says: of what, and how.
    """
    kept = {k: meta[k] for k in ('dataset_meta', ) if k in meta}
    write_checkpoint(out, dict(state_dict=state, meta=dict(made, **kept)))


def write_checkpoint(out: str, content: Mapping) -> None:
    """Write a checkpoint; whole, or not at all."""
    part = f'{out}.part'
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    torch.save(dict(content), part)
    os.replace(part, out)
