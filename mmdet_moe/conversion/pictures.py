"""A picture with objects, for detectors to be compared on."""
from typing import Optional

import mmcv
import numpy as np
import torch
import torch.nn.functional as F
from mmdet.models.backbones.csp_darknet import Focus
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData
from torch import Tensor, nn

#: Objects as left, top, right, bottom, in parts of the picture's width and
#: height: a small, a medium and a large one.
_OBJECTS = ((0.10, 0.15, 0.18, 0.25), (0.55, 0.10, 0.80, 0.45),
            (0.15, 0.35, 0.70, 0.90))


def image_channels(model: nn.Module) -> int:
    """C of the images that a model takes: what its first convolution does,
    if the image is not normalised with three values."""
    mean = getattr(model.data_preprocessor, 'mean', None)
    if mean is None or mean.numel() == 1:
        for module in getattr(model, 'backbone', nn.Module()).modules():
            if isinstance(module, Focus):  # of four pixels at a time
                return module.conv.conv.in_channels // 4
            if isinstance(module, nn.Conv2d):
                return module.in_channels
    return 3


def sample_batch(picture: Optional[str] = None, masks: bool = False,
                 channels: int = 3) -> dict:
    """A batch of one picture with three objects, as a data loader gives it.

    Args:
        picture: A picture file; if None, smooth noise with a rectangle for
            each object, always the same.
        masks: Whether the objects have masks.
        channels: C of the noise.

    Returns:
        ``inputs``, uint8 (C, H, W), and ``data_samples``; all objects are of
        class 0.
    """
    pixels = _smooth_noise(
        channels, 256, 320) if picture is None else torch.from_numpy(
            np.ascontiguousarray(mmcv.imread(picture))).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    boxes = (torch.tensor(_OBJECTS) *
             torch.tensor([width, height, width, height])).round()
    inside = np.zeros((len(boxes), height, width), dtype=np.uint8)
    for i, (left, top, right, bottom) in enumerate(boxes.int().tolist()):
        inside[i, top:bottom, left:right] = 1
        if picture is None:
            pixels[:, top:bottom, left:right] = 80 * i + 30
    sample = DetDataSample(
        metainfo=dict(
            img_id=0,
            img_shape=(height, width),
            ori_shape=(height, width),
            scale_factor=(1.0, 1.0)))
    sample.gt_instances = InstanceData(
        bboxes=boxes,
        labels=torch.zeros(len(boxes), dtype=torch.long))
    if masks:
        sample.gt_instances.masks = BitmapMasks(inside, height, width)
    return dict(inputs=[pixels], data_samples=[sample])


def _smooth_noise(channels: int, height: int, width: int) -> Tensor:
    """uint8 (C, H, W), the same each time."""
    coarse = torch.rand((1, channels, height // 16, width // 16),
                        generator=torch.Generator().manual_seed(0))
    fine = F.interpolate(coarse, (height, width), mode='bilinear')
    return (255 * fine[0]).byte()
