"""Whether two detectors do the same with a picture."""
from typing import Any, List, Optional

import torch
from mmcv.cnn.bricks import DropPath
from mmdet.structures import DetDataSample
from torch import Tensor, nn

from mmdet_moe.layers import MoELayer

from .checkpoints import UpcyclingError
from .pictures import image_channels, sample_batch

#: What draws random numbers in training, or goes by the batch; a MoE layer
#: with all that is in it.
_UNSTEADY = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd,
             DropPath, nn.MultiheadAttention, MoELayer)


DIFFERENT = ('the upcycled detector, which may not add anything to the '
             'architecture, is not the dense one')


@torch.no_grad()
def compare(dense: nn.Module, moe: nn.Module,
            picture: Optional[str] = None,
            different: str = DIFFERENT,
            tolerance: float = 1e-3) -> str:
    """Check that two detectors do the same with a picture.

    Compared are the losses, without dropout and with the statistics that the
    BatchNorms have; the raw outputs and the detections in evaluation. What is
    drawn at random, such as the regions that a second stage is trained with,
    is drawn alike. Both detectors are in evaluation mode afterwards.

    Args:
        dense: The detector without experts.
        moe: The one with experts.
        picture: A picture file; a generated one if None.
        different: What the error says if they do not.
        tolerance: Largest difference of an output, relative to its largest
            value; a box may differ by 100 times as many pixels.

    Returns:
        What was compared, to be printed.

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
        if not difference < tolerance:
            raise UpcyclingError(
                f'{different}: {name} differs by {difference:.2g} of its '
                'largest value')
    boxes = [outcome['boxes'] for outcome in outcomes]
    if not _same_rows(*boxes, 100 * tolerance):
        raise UpcyclingError(
            f'{different}: '
            f'{len(boxes[0])} detections became {len(boxes[1])}, or others')
    return (f'compared on {picture or "a generated picture"}: '
            f'{len(outcomes[0]["tensors"])} losses and outputs equal (largest '
            f'relative difference {worst:.1e}), {len(boxes[0])} detections '
            'equal')


def _run(detector: nn.Module, picture: Optional[str]) -> dict:
    """Losses and raw outputs by name, detections (n, 6)."""
    preprocessor = detector.data_preprocessor
    masks = getattr(preprocessor, 'pad_mask', False)
    data = preprocessor(
        sample_batch(picture, masks, image_channels(detector)), False)

    def call(mode: str) -> Any:
        torch.manual_seed(0)
        # Predicting writes into the samples, so each mode gets its own.
        return detector(data['inputs'], _copies(data), mode=mode)

    _train_steadily(detector)
    tensors = _named('loss', call('loss'))
    detector.eval()
    tensors.update(_named('output', call('tensor')))
    found = call('predict')[0].pred_instances
    return dict(
        tensors=tensors,
        boxes=torch.cat([
            found.bboxes, 100 * found.labels[:, None],
            found.scores[:, None]
        ], dim=1))


def _train_steadily(detector: nn.Module) -> None:
    """Training mode, in which the losses have the usual meaning, for all but
    the layers whose outputs would differ from one call to the next."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, _UNSTEADY):
            module.eval()


def _copies(data: dict) -> List[DetDataSample]:
    return [sample.clone() for sample in data['data_samples']]


def _named(name: str, value: Any) -> dict:
    """All tensors with something in them, by where they are in ``value``."""
    if isinstance(value, Tensor):
        return {name: value} if value.numel() else {}
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return {}
    return {
        key: tensor
        for part, item in items
        for key, tensor in _named(f'{name}.{part}', item).items()
    }


def _same_rows(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether two sets of rows are equal; rounding may swap equal scores."""
    if len(a) != len(b):
        return False
    if len(a) == 0:
        return True
    distance = (a[:, None] - b[None]).abs().amax(dim=-1)
    nearest = torch.maximum(distance.amin(dim=0), distance.amin(dim=1))
    return float(nearest.max()) < tolerance
