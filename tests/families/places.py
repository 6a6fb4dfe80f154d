"""A place for experts in any detector."""
from fnmatch import fnmatchcase
from typing import Callable, Iterator

from torch import nn

from mmdet_moe.detection.detector import add_experts

#: Where experts suit a detector, the best place first: as they are written in
#: a config, so that ``*`` stands for one part of a name.
PATTERNS = (
    'roi_head.bbox_head.shared_fcs.1', 'roi_head.bbox_head.*.shared_fcs.1',
    'roi_head.bbox_head.shared_convs.*.conv', 'roi_head.bbox_head.*.ffn',
    'roi_head.bbox_head.fc_branch.1',
    'decoder.layers.*.ffn', 'panoptic_head.transformer_decoder.layers.*.ffn',
    'track_head.mask_head.transformer_decoder.layers.*.ffn',
    'bbox_head.cls_convs.*.conv', 'bbox_head.cls_convs.*.*.conv',
    'bbox_head.multi_level_cls_convs.*', 'bbox_head.convs_pred.*',
    'mask_head.cls_convs.*.conv',
    'bbox_head.tl_heat.*.0', 'bbox_head.cls_convs.*.0', 'rpn_head.rpn_conv')


def place(build: Callable[[], nn.Module], **options) -> str:
    """The first place that is accepted, as ``at``.

    Args:
        build: Makes the detector.
        options: Of the experts.

    Where no pattern is, it is a convolution or fully connected layer, by
    itself or within its module of MMCV, the last one of the heads.

    Raises:
        LookupError: There is none.
    """
    errors = []
    for at in _candidates(build()):
        try:
            add_experts(build(), [dict(options, at=at)])
        except ValueError as error:
            errors.append(f'{at}: {error}')
        else:
            return at
    raise LookupError('; '.join(errors[-3:]) or 'no head has a layer')


def _candidates(detector: nn.Module) -> Iterator[str]:
    names = [name for name, _ in detector.named_modules()]
    for pattern in PATTERNS:
        if any(name.count('.') == pattern.count('.')
               and fnmatchcase(name, pattern) for name in names):
            yield pattern
    for name, module in reversed(list(detector.named_modules())):
        if 'head' in name and 'text' not in name and isinstance(
                module, (nn.Conv2d, nn.Linear)):
            outer = name.rpartition('.')[0]
            if name.endswith('.conv'):
                yield outer
            yield name
