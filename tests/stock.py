"""Stock detectors of MMDetection, shrunk until a test can afford them."""
from pathlib import Path
from typing import List, Sequence, Tuple

import mmdet
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config, ConfigDict
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from mmengine.utils import digit_version
from torch import Tensor, nn

CONFIGS = Path(mmdet.__file__).parent / '.mim' / 'configs'
TWO_STAGE = dict(
    faster_rcnn='faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    cascade_rcnn='cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
    cascade_mask='cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    mask_rcnn='mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    double_head='double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py',
)
TRANSFORMERS = dict(
    detr='detr/detr_r50_8xb2-150e_coco.py',
    conditional_detr='conditional_detr/conditional-detr_r50_8xb2-50e_coco.py',
    dab_detr='dab_detr/dab-detr_r50_8xb2-50e_coco.py',
    deformable_detr='deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    deformable_detr_refine='deformable_detr/'
    'deformable-detr-refine_r50_16xb2-50e_coco.py',
    deformable_detr_two_stage='deformable_detr/'
    'deformable-detr-refine-twostage_r50_16xb2-50e_coco.py',
    dino='dino/dino-4scale_r50_8xb2-12e_coco.py',
    ddq='ddq/ddq-detr-4scale_r50_8xb2-12e_coco.py',
)
NUM_CLASSES = 5
WIDTH = 64
SIZE = 96, 128  # height and width of a batch
# These compute sine embeddings for 256 channels, whatever the config says.
WIDE = ['conditional_detr', 'deformable_detr_two_stage']
if digit_version(mmdet.__version__) < digit_version('3.4'):
    WIDE.append('dino')
# Keys that hold a number of channels, in the configs above.
CHANNELS = ('in_channels', 'out_channels', 'feat_channels', 'embed_dims',
            'conv_out_channels', 'fc_out_channels', 'feedforward_channels')


def stock(name: str) -> ConfigDict:
    """The ``model`` of a stock config, with 64 channels and 5 classes.

    Args:
        name: Key of ``TWO_STAGE`` or ``TRANSFORMERS``.

    Two-stage detectors have 50 regions, at most 20 detections and all scores
    count; those with a transformer 2 layers, 30 queries and 20 detections.
    """
    file = {**TWO_STAGE, **TRANSFORMERS}[name]
    model = Config.fromfile(CONFIGS / file).model
    width = 256 if name in WIDE else WIDTH
    _narrow(model, width)
    model.backbone.update(
        depth=18, base_channels=16, frozen_stages=-1, init_cfg=None)
    model.neck.in_channels = [16 << i for i in model.backbone.out_indices]
    if name in TRANSFORMERS:
        _shrink_transformer(model, width)
    else:
        model.test_cfg.rpn.max_per_img = 50
        model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)
    return model


def _narrow(cfg, width: int) -> None:
    """Set channels and classes, wherever a config has them."""
    if isinstance(cfg, dict):
        for key, value in cfg.items():
            if key in CHANNELS and isinstance(value, int):
                cfg[key] = width
            elif key == 'num_classes':
                cfg[key] = NUM_CLASSES
            else:
                _narrow(value, width)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            _narrow(value, width)


def _shrink_transformer(model: ConfigDict, width: int) -> None:
    model.num_queries = 30
    model.encoder.num_layers = model.decoder.num_layers = 2
    model.positional_encoding.num_feats = width // 2
    model.bbox_head.embed_dims = width
    model.test_cfg.max_per_img = 20
    if 'dn_cfg' in model:
        model.dn_cfg.group_cfg.num_dn_queries = 24


def build(model: ConfigDict) -> nn.Module:
    """The detector, in eval mode, with initial weights that are told apart.

    Initial weights of the last layers are next to zero, so that all boxes
    and scores are next to the same: small weights are drawn anew.
    """
    init_default_scope('mmdet')
    detector = MODELS.build(model)
    detector.init_weights()
    for module in detector.modules():
        if (isinstance(module, (nn.Linear, nn.Conv2d))
                and module.weight.std() < 0.02):
            nn.init.normal_(module.weight, std=0.05)
    return detector.eval()


def pictures(
    boxes: Sequence[Sequence[Sequence[float]]] = ((), ())
) -> Tuple[Tensor, List[DetDataSample]]:
    """A batch of noise: a picture that fills it, and smaller ones.

    Args:
        boxes: For each picture the boxes of its objects, in the original
            picture's coordinates for a prediction, else in the batch's.
            Their classes are 0, 1, ...

    Returns:
        Inputs (B, 3, 96, 128), and samples with annotations and sizes.
    """
    height, width = SIZE
    inputs, samples = torch.zeros(len(boxes), 3, height, width), []
    for i, own in enumerate(boxes):
        h, w = height - 16 * i, width - 28 * i
        inputs[i, :, :h, :w] = torch.randn(3, h, w)
        scale = (1.3, 1.25) if i else (2.0, 2.0)
        sample = DetDataSample(metainfo=dict(
            img_id=i,
            img_shape=(h, w),
            batch_input_shape=SIZE,
            pad_shape=SIZE,
            scale_factor=scale,
            ori_shape=(round(h / scale[1]), round(w / scale[0]))))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(own, dtype=torch.float32).view(-1, 4),
            labels=torch.arange(len(own)) % NUM_CLASSES)
        samples.append(sample)
    return inputs, samples


def predict(detector: nn.Module, inputs: Tensor,
            samples: Sequence[DetDataSample]) -> List[InstanceData]:
    """The detections of each picture; the samples stay as they are."""
    samples = [sample.clone() for sample in samples]
    with torch.no_grad():
        found = detector(inputs, samples, mode='predict')
    return [sample.pred_instances for sample in found]


def assert_same(a: InstanceData, b: InstanceData) -> None:
    """Two pictures' detections are equal to the last bit."""
    assert sorted(a.keys()) == sorted(b.keys())
    for key, value in a.items():
        if value.is_floating_point():  # NaN is equal to NaN here
            value, other = value.nan_to_num(-1), b[key].nan_to_num(-1)
        else:
            other = b[key]
        assert torch.equal(value, other), key
