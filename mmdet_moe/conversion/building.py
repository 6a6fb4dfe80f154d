"""Building a detector to look at it, in one process and untrained."""
import copy
from typing import Any

from mmdet.registry import MODELS
from mmengine.dist import is_distributed
from torch import nn


def build_here(model: dict) -> nn.Module:
    """Build the model of a config, which is not changed.

    MMCV's SyncBatchNorm asks for the group of processes when it is built. In
    a single process PyTorch's is built in its place, which has the same
    parameters.
    """
    model = copy.deepcopy(model)
    if not is_distributed():
        _replace_mm_sync_bn(model)
    return MODELS.build(model)


def _replace_mm_sync_bn(part: Any) -> None:
    if isinstance(part, dict):
        if part.get('type') == 'MMSyncBN':
            part['type'] = 'SyncBN'
        part = list(part.values())
    if isinstance(part, (list, tuple)):
        for inner in part:
            _replace_mm_sync_bn(inner)
