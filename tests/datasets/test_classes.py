"""Classes of data and heads, before anything is built."""
from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.hooks import CheckpointHook

from mmdet_moe.config_parts import apart
from mmdet_moe.datasets.checks import check_coco_dataset
from mmdet_moe.datasets.classes import check_classes
from mmdet_moe.files import DataError
from mmdet_moe.hooks import SeedHook
from mmdet_moe.launch import read_config
from mmdet_moe.resuming import keep_safe

CONFIGS = Path(__file__).parents[2] / 'configs'
CLASSES = ('disc', 'square', 'triangle', 'ring', 'cross')


class Own(CocoDataset):
    """In no registry."""


def config(name='retinanet_moe_fpn_shapes', **options):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('name', [
    'retinanet_moe_fpn_shapes', 'retinanet_moe_fpn_coco',
    'retinanet_moe_fpn_own_data',
    'faster_rcnn/faster-rcnn_moe_r18_fpn_bccd',
    'cascade_rcnn/cascade-rcnn_moe_r50_fpn_1x_coco'])
def test_what_fits(name):
    check_classes(config(name), ('train', 'val', 'test'))


@pytest.mark.parametrize('name, options, message', [
    ('retinanet_moe_fpn_shapes', {'model.bbox_head.num_classes': 80},
     'model.bbox_head.num_classes=80: allowed is 5.*train_dataloader'),
    ('faster_rcnn/faster-rcnn_moe_r18_fpn_bccd',
     {'model.roi_head.bbox_head.num_classes': 2},
     'model.roi_head.bbox_head.num_classes=2: allowed is 3.*RBC, WBC'),
    ('retinanet_moe_fpn_bccd',
     {'val_dataloader.dataset.metainfo.classes': ('WBC', 'RBC', 'Platelets')},
     "val_dataloader.dataset.metainfo.classes='WBC.*in the same order; or is "
     'train_dataloader.dataset the one'),
    ('retinanet_moe_fpn_bccd',
     {'train_dataloader.dataset.metainfo.classes': 'RBC'},
     "classes='RBC': allowed is a tuple, such as"),
])
def test_what_does_not(name, options, message):
    with pytest.raises(ValueError, match=message):
        check_classes(config(name, **options), ('train', 'val'))


def test_the_first_difference_is_shown():
    classes = [f'c{i}' for i in range(80)]
    other = classes[:40] + ['cat'] + classes[41:]
    assert apart(classes, other) == (
        '..., c37, c38, c39, c40, c41, c42, ... (80 classes)',
        '..., c37, c38, c39, cat, c41, c42, ... (80 classes)')
    assert apart(['a', 'b'], ['a']) == ('a, b', 'a')


def test_datasets_that_are_joined():
    cfg = config('retinanet_moe_fpn_bccd')
    part = cfg.train_dataloader.dataset
    other = dict(part, metainfo=dict(classes=('RBC', 'WBC')))
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[part, other])
    with pytest.raises(
            ValueError, match='datasets.1 are joined: their classes differ'):
        check_classes(cfg, ('train', ))
    cfg.train_dataloader.dataset.datasets[1] = part
    check_classes(cfg, ('train', 'val'))


@pytest.mark.parametrize('name', [
    'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco',
    'mm_grounding_dino/grounding_dino_swin-t_pretrain_obj365',
    'grounding_dino/odinw/grounding_dino_swin-t_pretrain_odinw13',
    'mm_grounding_dino/coco/grounding_dino_swin-t_finetune_16xb4_1x_coco_48_17',
    'glip/lvis/glip_atss_swin-t_a_fpn_dyhead_pretrain_zeroshot_mini-lvis',
    'qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_'
    'test-mot17halfval',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 'yolox/yolox_s_8xb8-300e_coco'])
def test_stock_configs(name):
    """Stuff, texts instead of classes, and tests on data of another kind."""
    check_classes(read_config(f'mmdet::{name}.py'), ('train', 'val'))


def test_a_config_that_holds_classes():
    """As those of Python that import them."""
    cfg = config('retinanet_moe_fpn_bccd')
    cfg.train_dataloader.dataset = dict(
        cfg.train_dataloader.dataset, type=Own,
        metainfo=dict(classes=('RBC', 'WBC')))
    with pytest.raises(ValueError, match='in the same order'):
        check_classes(cfg, ('train', 'val'))
    with pytest.raises(DataError, match='here.json does not exist'):
        check_coco_dataset('data', dict(type=Own, ann_file='here.json'))
    cfg.custom_hooks = [dict(type=SeedHook)]
    cfg.default_hooks = dict(checkpoint=dict(type=CheckpointHook))
    keep_safe(cfg)
    assert cfg.default_hooks.checkpoint.backend_args.backend == 'WholeFiles'
    assert [h.type for h in cfg.custom_hooks] == [
        SeedHook, 'FiniteLossHook', 'PlainCheckpointHook']
