"""A checkpoint of a MoE detector out of one of the dense detector.

Before the noise is added the two detectors are compared on a picture.
"""
import os
from typing import Any, List, Optional

import mmcv
import numpy as np
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .datasets.shapes import draw_picture
from .layers import add_noise
from .layers.checks import check_number
from .models.upcycling import (
    UpcyclingError,
    dense_twin,
    load_dense,
    read_state,
)


def upcycle_detector(cfg: Config,
                     checkpoint: str,
                     out: str,
                     noise: float = 0.01,
                     picture: Optional[str] = None) -> str:
    """Write a checkpoint for a MoE config, made of a dense one.

    Before the noise is added the losses, the raw outputs and the detections
    of both detectors are compared on a picture.

    Args:
        cfg: Config of the MoE detector.
        checkpoint: Of the dense detector.
        out: File to write; it must not exist yet.
        noise: As of :class:`UpcycleInit`.
        picture: A picture file to compare on; a generated one if None.

    Returns:
        What was copied and compared, to be printed.

    Raises:
        UpcyclingError: A key does not match, the two detectors differ, or
            ``out`` exists.
    """
    check_number('noise', noise)
    if os.path.exists(out):
        raise UpcyclingError(f'{out} is there already; choose another name')
    moe, dense = MODELS.build(cfg.model), MODELS.build(dense_twin(cfg.model))
    # What only MoE has keeps the initialisation of its constructor.
    report = load_dense(moe, checkpoint)
    state, meta = read_state(checkpoint)
    dense.load_state_dict(state)
    compared = compare(dense.eval(), moe.eval(), picture)
    add_noise(moe, noise)
    part = f'{out}.part'
    os.makedirs(os.path.dirname(os.path.abspath(out)), exist_ok=True)
    torch.save(
        dict(
            state_dict=moe.state_dict(),
            meta=dict(
                upcycled_from=str(checkpoint),
                noise=noise,
                **{k: meta[k]
                   for k in ('dataset_meta', ) if k in meta})), part)
    os.replace(part, out)
    return f'{report}\n{compared}\nnoise {noise:g} added; {out} written'


@torch.no_grad()
def compare(dense: nn.Module, moe: nn.Module,
            picture: Optional[str] = None) -> str:
    """Check that two detectors do the same with a picture.

    Raises:
        UpcyclingError: They do not; says what differs by how much.
    """
    with torch.random.fork_rng():
        outcomes = [_run(detector, picture) for detector in (dense, moe)]
    worst = 0.0
    for name, expected in outcomes[0]['tensors'].items():
        found = outcomes[1]['tensors'][name]
        scale = expected.abs().max().clamp_min(1e-6)
        difference = float((found - expected).abs().max() / scale)
        worst = max(worst, difference)
        if not difference < 1e-3:
            raise UpcyclingError(
                f'the upcycled detector is not the dense one: {name} differs '
                f'by {difference:.2g} of its largest value. An architecture '
                'that adds to the dense one, such as residual=True, cannot be '
                'upcycled')
    boxes = [outcome['boxes'] for outcome in outcomes]
    if not _same_rows(*boxes):
        raise UpcyclingError(
            'the upcycled detector is not the dense one: '
            f'{len(boxes[0])} detections became {len(boxes[1])}, or others')
    return (f'compared on {picture or "a generated picture"}: '
            f'{len(outcomes[0]["tensors"])} losses and outputs equal (largest '
            f'relative difference {worst:.1e}), {len(boxes[0])} detections '
            'equal')


def _run(detector: nn.Module, picture: Optional[str]) -> dict:
    """Losses and raw outputs by name, detections (n, 6)."""
    torch.manual_seed(0)  # two-stage detectors sample their proposals
    data = detector.data_preprocessor(_batch(picture, detector), False)
    tensors = {}
    # Predicting writes into the samples, so each mode gets its own.
    for mode in ('loss', 'tensor'):
        outcome = detector(data['inputs'], _copies(data), mode=mode)
        tensors.update(
            (f'{mode} {name}', value) for name, value in _flatten(outcome))
    found = detector(data['inputs'], _copies(data), mode='predict')[0]
    found = found.pred_instances
    return dict(
        tensors=tensors,
        boxes=torch.cat([
            found.bboxes, 100 * found.labels[:, None],
            found.scores[:, None]
        ], dim=1))


def _copies(data: dict) -> List[DetDataSample]:
    return [sample.clone() for sample in data['data_samples']]


def _flatten(value: Any, name: str = '') -> list:
    if isinstance(value, Tensor):
        return [(name, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return [
        leaf for key, item in items
        for leaf in _flatten(item, f'{name}.{key}' if name else str(key))
    ]


def _same_rows(a: Tensor, b: Tensor) -> bool:
    """Whether two sets of rows are equal; rounding may swap equal scores."""
    if len(a) != len(b):
        return False
    if len(a) == 0:
        return True
    distance = (a[:, None] - b[None]).abs().amax(dim=-1)
    return float(
        torch.maximum(distance.amin(dim=0), distance.amin(dim=1)).max()) < 0.1


def _batch(picture: Optional[str], detector: nn.Module) -> dict:
    """A picture with an object or more, as a test loader gives it."""
    pixels, objects = draw_picture(np.random.default_rng(0), (256, 320))
    boxes = torch.tensor([o['bbox'] for o in objects], dtype=torch.float)
    boxes[:, 2:] += boxes[:, :2]
    if picture is not None:
        pixels = mmcv.imread(picture)
    height, width = pixels.shape[:2]
    sample = DetDataSample(
        metainfo=dict(
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.zeros(len(boxes), dtype=torch.long))
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)
    return dict(inputs=[tensor], data_samples=[sample])
