"""A model of a stock config, made so small that a CPU trains it at once."""
import copy
from typing import Any, Callable

from mmengine.config import Config, ConfigDict

from .choice import CONFIGS

#: Classes of ResNets that have a version with 18 layers.
RESNETS = 'ResNet', 'ResNetV1d'
#: What the stages of a ResNet-50 return.
STAGES = [256, 512, 1024, 2048]


class NoLink:
    """In place of the one that loads weights to join tracks of a video."""

    def forward(self, tracks):
        return tracks


def walk(part: Any, change: Callable[[dict], None]) -> None:
    """Call a function with each dict in a config, from the outside in."""
    if isinstance(part, dict):
        change(part)
        part = list(part.values())
    elif not isinstance(part, (list, tuple)):
        return
    for inner in part:
        walk(inner, change)


def offline(model: ConfigDict, words: str) -> ConfigDict:
    """Load nothing: no weights, no teacher, no language model.

    Args:
        model: Of a stock config; it is changed.
        words: Folder of a small language model, for those that have one.
    """

    def change(part: dict) -> None:
        for key in ('init_cfg', 'teacher_ckpt', 'num_cp'):
            part.pop(key, None)  # checkpointing needs one more package
        if part.get('type') == 'AppearanceFreeLink':
            part.clear()
            part['type'] = NoLink
        if part.get('pretrained'):
            part['pretrained'] = False if part['pretrained'] is True else None
        for key in ('name', 'lang_model_name'):
            if part.get(key) == 'bert-base-uncased':
                part[key] = words
        if isinstance(part.get('teacher_config'), str):
            part['teacher_config'] = str(
                CONFIGS.parent / part['teacher_config'])

    walk(model, change)
    return model


def shrink(model: ConfigDict, words: str) -> ConfigDict:
    """A small copy of a model: a thin backbone, few layers and candidates.

    Widths of necks and heads and numbers of classes stay. All scores count,
    so that a detector without training has detections.

    Args:
        model, words: As of :func:`offline`.
    """
    model = offline(copy.deepcopy(model), words)
    walk(model, _shrink_part)
    walk(model, _shrink_backbone)
    return model


def _shrink_part(part: dict) -> None:
    if part.get('type') in ('SyncBN', 'MMSyncBN'):
        part['type'] = 'BN'  # on a CPU, as MMDetection's own tools do
    if part.get('eps') == 0:
        part['eps'] = 1e-5  # PyTorch refuses 0 by now
    if isinstance(part.get('num_classes'), int):  # V3Det has 13,204
        part['num_classes'] = min(part['num_classes'], 1203)
    part.pop('batch_augments', None)
    for key, most in (('num_queries', 30), ('num_proposals', 30),
                      ('deepen_factor', 0.33),
                      ('num_dn_queries', 10)):
        if isinstance(part.get(key), (int, float)):
            part[key] = min(part[key], most)
    if 'num_grids' in part:  # of SOLO, with a mask for each cell and class
        part['num_grids'] = [n // 4 for n in part['num_grids']]
    for key in ('encoder', 'decoder'):
        if isinstance(part.get(key), dict) and 'num_layers' in part[key]:
            part[key]['num_layers'] = 2
    if isinstance(part.get('teacher_config'), str):
        teacher = shrink(Config.fromfile(part['teacher_config']).model, '')
        part['teacher_config'] = Config(dict(model=teacher))
    if 'neg_pos_ub' in part and part.get('num', -1) > 64:  # a sampler
        part['num'] = 64
    for key in ('test_cfg', 'rpn_proposal'):
        if isinstance(part.get(key), dict):
            walk(part[key], _count_all)
    if isinstance(part.get('rpn_proposal'), dict):
        part['rpn_proposal']['max_per_img'] = 100


def _count_all(test: dict) -> None:
    for key in ('score_thr', 'mask_score_thr', 'filter_thr'):
        if isinstance(test.get(key), float):
            test[key] = 0.0
    for key, most in (('max_per_img', 30), ('nms_pre', 100)):
        if isinstance(test.get(key), int):
            test[key] = min(test[key], most)
    if 'mask_thr' in test:  # of SOLO, whose bias is that of 0.01
        test['mask_thr'] = 0.01
    if 'distance_threshold' in test:  # between embeddings of corners
        test['distance_threshold'] = 1e6
    if isinstance(test.get('rpn'), dict):
        test['rpn']['max_per_img'] = 50


def _shrink_backbone(part: dict) -> None:
    """A ResNet-18 with 16 channels where all that follows is a neck."""
    backbone, neck = part.get('backbone'), part.get('neck')
    if not isinstance(backbone, dict):
        return
    if 'stage_blocks' in backbone:  # of an hourglass
        backbone['stage_blocks'] = [1 for _ in backbone['stage_blocks']]
    if isinstance(backbone.get('depths'), (list, tuple)):  # of Swin and alike
        backbone['depths'] = [
            2 if n < 3 else n // 3 for n in backbone['depths']]
    if backbone.get('depth') is None:
        return
    first = neck[0] if isinstance(neck, (list, tuple)) else neck
    stages = backbone.get('out_indices', (0, 1, 2, 3))
    plain = (
        backbone['type'] in RESNETS
        and backbone.get('norm_cfg', {}).get('type', 'BN') == 'BN'
        and not backbone.get('dcn') and not backbone.get('plugins'))
    widths = first.get('in_channels') if first else None
    if plain and widths in ([STAGES[i] for i in stages], STAGES[stages[-1]]):
        backbone.update(depth=18, base_channels=16)
        narrow = [16 << i for i in stages]
        first['in_channels'] = (
            narrow if isinstance(widths, list) else narrow[-1])
    elif backbone['depth'] in (101, 152, 200):
        backbone['depth'] = 50
    if 'frozen_stages' in backbone:
        backbone['frozen_stages'] = -1
