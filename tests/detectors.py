"""Small versions of MMDetection's single-stage detectors, and pictures for
them: stock configs with thin backbones and necks, and random weights."""
from pathlib import Path
from typing import Optional, Sequence, Union

import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import nn

STOCK = Path(mmdet.__file__).parent / '.mim' / 'configs'
NUM_CLASSES = 5

#: Stock configs by head.
HEADS = dict(
    retinanet='retinanet/retinanet_r50_fpn_1x_coco.py',
    fcos='fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    atss='atss/atss_r50_fpn_1x_coco.py',
    gfl='gfl/gfl_r50_fpn_1x_coco.py',
    paa='paa/paa_r50_fpn_1x_coco.py',
    vfnet='vfnet/vfnet_r50_fpn_1x_coco.py',
    fsaf='fsaf/fsaf_r50_fpn_1x_coco.py',
    foveabox='foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
    free_anchor='free_anchor/freeanchor_r50_fpn_1x_coco.py',
    autoassign='autoassign/autoassign_r50-caffe_fpn_1x_coco.py',
    reppoints='reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py',
    tood='tood/tood_r50_fpn_1x_coco.py',
    rtmdet='rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    yolox='yolox/yolox_nano_8xb8-300e_coco.py')

HEAD = dict(in_channels=64, feat_channels=64, num_classes=NUM_CLASSES)
CSP = (dict(widen_factor=0.125),
       dict(in_channels=[32, 64, 128], out_channels=64))
#: Options of the backbone, by its type, and of the neck.
SMALL = dict(
    ResNet=(dict(depth=18, base_channels=8),
            dict(in_channels=[8, 16, 32, 64], out_channels=64)),
    CSPNeXt=CSP,
    CSPDarknet=CSP)


def small(path: str, **overrides) -> ConfigDict:
    """The model of a stock config, made small.

    Args:
        path: Below MMDetection's ``configs``.
        overrides: Merged over the model, such as
            ``bbox_head=dict(num_classes=3)``.
    """
    cfg = Config.fromfile(STOCK / path)
    backbone, neck = SMALL[cfg.model.backbone.type]
    head = dict(HEAD)
    if 'point_feat_channels' in cfg.model.bbox_head:
        head.update(point_feat_channels=64)
    shrunk = dict(
        backbone=dict(backbone, init_cfg=None),
        neck=neck,
        bbox_head=head,
        data_preprocessor=dict(pad_size_divisor=32))
    for part in (shrunk, overrides):
        cfg.merge_from_dict(dict(model=part))
    return cfg.model


def build(model: Union[str, ConfigDict], **overrides) -> nn.Module:
    """A small detector with random weights, in evaluation mode.

    Args:
        model: As :func:`small` returns it, or what that takes.
        overrides: As of :func:`small`, where it is called here.
    """
    init_default_scope('mmdet')
    if isinstance(model, str):
        model = small(model, **overrides)
    detector = MODELS.build(model)
    detector.init_weights()
    return detector.eval()


def batch(detector: nn.Module,
          sizes: Sequence = ((64, 96), (96, 72)),
          scale: float = 1.0,
          objects: Optional[Sequence] = None) -> dict:
    """Random pictures, as a detector's ``forward`` takes them.

    Args:
        sizes: Height and width of each picture.
        scale: By how much the pictures are larger than their originals.
        objects: For each picture boxes (n, 4) in its own coordinates, not the
            original's; their labels are 0, 1, 2, and so on.
    """
    samples = []
    for i, (height, width) in enumerate(sizes):
        boxes = torch.zeros(0, 4) if objects is None else torch.tensor(
            objects[i], dtype=torch.float).view(-1, 4)
        samples.append(
            DetDataSample(
                metainfo=dict(
                    img_id=i,
                    img_shape=(height, width),
                    ori_shape=(int(height / scale), int(width / scale)),
                    scale_factor=(scale, scale)),
                gt_instances=InstanceData(
                    bboxes=boxes,
                    labels=torch.arange(len(boxes)) % NUM_CLASSES)))
    inputs = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8) for size in sizes
    ]
    return detector.data_preprocessor(
        dict(inputs=inputs, data_samples=samples), False)
