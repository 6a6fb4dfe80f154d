"""Whether two detectors do the same with a picture."""
from typing import Any, Dict, NamedTuple, Optional

import torch
from mmcv.cnn.bricks import DropPath
from mmdet.structures.bbox import HorizontalBoxes, get_box_tensor
from torch import Tensor, nn

from mmdet_moe.detection.boxes import converted
from mmdet_moe.layers import MoELayer

from .checkpoints import UpcyclingError
from .pictures import image_channels, sample_batch

#: What draws random numbers in training, or goes by the batch; a MoE layer
#: with all that is in it.
_UNSTEADY = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd,
             DropPath, nn.MultiheadAttention, MoELayer)

#: Of ``forward``.
_MODES = 'predict', 'tensor', 'loss'

DIFFERENT = ('the upcycled detector, which may not add anything to the '
             'architecture, is not the dense one')


class _Outcome(NamedTuple):
    """What a detector does with a picture.

    Attributes:
        tensors: Losses and raw outputs, by name.
        boxes: Detections (n, 6), or more than four numbers for a box.
        failed: By mode of ``forward`` its error.
    """
    tensors: Dict[str, Tensor]
    boxes: Tensor
    failed: Dict[str, Exception]


@torch.no_grad()
def compare(dense: nn.Module, moe: nn.Module,
            picture: Optional[str] = None,
            different: str = DIFFERENT,
            tolerance: float = 1e-3) -> str:
    """Check that two detectors do the same with a picture.

    Compared are the losses, without dropout and with the statistics that the
    BatchNorms have; the raw outputs and the detections in evaluation. What is
    drawn at random, such as the regions that a second stage is trained with,
    is drawn alike. A mode of ``forward`` that fails without experts, as for
    want of a GPU, is left out. Both detectors are in evaluation mode
    afterwards.

    Args:
        dense: The detector without experts.
        moe: The one with experts.
        picture: A picture file; a generated one if None.
        different: What the error says if they do not.
        tolerance: Largest difference of an output, relative to its largest
            value; a box may differ by 100 times as many pixels.

    Returns:
        What was compared and what was left out, to be printed.

    Raises:
        UpcyclingError: They do not; says what differs by how much. Or nothing
            can be compared.
    """
    with torch.random.fork_rng():
        expected, found = (_run(d, picture) for d in (dense, moe))
    for mode, error in found.failed.items():
        if mode not in expected.failed:
            raise UpcyclingError(
                f'{different}: it fails in mode {mode!r} with '
                f'{_text(error)}') from error
    left = '; '.join(f'{mode!r} ({_text(error)})'
                     for mode, error in expected.failed.items())
    if len(expected.failed) == len(_MODES):
        raise UpcyclingError(
            'the detector without experts runs in no mode of forward, so that '
            f'nothing can be compared: {left}')
    worst = 0.0
    for name, wanted in expected.tensors.items():
        scale = wanted.abs().max().clamp_min(1e-6)
        difference = float((found.tensors[name] - wanted).abs().max() / scale)
        worst = max(worst, difference)
        if not difference < tolerance:
            raise UpcyclingError(
                f'{different}: {name} differs by {difference:.2g} of its '
                'largest value')
    if not _same_rows(expected.boxes, found.boxes, 100 * tolerance):
        raise UpcyclingError(
            f'{different}: {len(expected.boxes)} detections became '
            f'{len(found.boxes)}, or others')
    return (f'compared on {picture or "a generated picture"}: '
            f'{len(expected.tensors)} losses and outputs equal (largest '
            f'relative difference {worst:.1e}), {len(expected.boxes)} '
            f'detections equal{left and "; not compared: modes " + left}')


def _run(detector: nn.Module, picture: Optional[str]) -> _Outcome:
    preprocessor = detector.data_preprocessor
    masks = getattr(preprocessor, 'pad_mask', False)
    batch = sample_batch(picture, masks, image_channels(detector))
    failed: Dict[str, Exception] = {}

    def call(mode: str) -> Any:
        torch.manual_seed(0)
        # Predicting writes into the samples, so each mode gets its own.
        data = preprocessor(
            dict(batch, data_samples=[
                sample.clone() for sample in batch['data_samples']]), False)
        try:
            return detector(data['inputs'], data['data_samples'], mode=mode)
        except Exception as error:  # whatever a stranger's forward raises
            failed[mode] = error

    detector.eval()
    boxes, samples = torch.zeros(0, 6), call('predict')
    if samples is not None:
        found = samples[0].pred_instances
        bboxes = get_box_tensor(found.bboxes)
        boxes = torch.cat([
            bboxes, 100 * found.labels[:, None], found.scores[:, None]
        ], dim=1)
        if bboxes.shape[-1] != HorizontalBoxes.box_dim:
            # What predicts rotated boxes has them annotated.
            objects = batch['data_samples'][0].gt_instances
            objects.bboxes = converted(objects.bboxes, bboxes.shape[-1])
    tensors = _named('output', call('tensor'))
    _train_steadily(detector)
    tensors.update(_named('loss', call('loss')))
    detector.eval()
    return _Outcome(tensors, boxes, failed)


def _text(error: Exception) -> str:
    return f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'


def _train_steadily(detector: nn.Module) -> None:
    """Training mode, in which the losses have the usual meaning, for all but
    the layers whose outputs would differ from one call to the next."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, _UNSTEADY):
            module.eval()


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
