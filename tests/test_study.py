"""tools/train.py on every variant of the detection study, for 2 iterations.

Minutes long, so only with  make test-study.
"""
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config

ROOT = Path(__file__).parents[1]
STUDY = sorted((ROOT / 'configs' / 'retinanet_moe').glob('*.py'))
CLASSES = "('disc','square','triangle','cross','ring')"
SMALL = {
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 16,
    'model.backbone.stem_channels': 16,
    'model.neck.in_channels': '[16,32,64,128]',
    'model.neck.out_channels': 64,
    'model.bbox_head.in_channels': 64,
    'model.bbox_head.feat_channels': 64,
    'model.bbox_head.num_classes': 5,
}
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
    """A checkpoint that all variants can be upcycled from."""
    from mmengine.registry import init_default_scope

    from mmdet_moe.conversion.dense_twin import dense_twin
    init_default_scope('mmdet')
    cfg = Config.fromfile(STUDY[0])
    cfg.merge_from_dict({
        key: eval(value) if isinstance(value, str) else value
        for key, value in SMALL.items()
    })
    detector = MODELS.build(dense_twin(cfg.model))
    path = tmp_path_factory.mktemp('dense') / 'dense.pth'
    torch.save(dict(state_dict=detector.state_dict()), path)
    return path


@pytest.mark.parametrize('config', STUDY, ids=lambda p: p.stem)
def test_variant(config, dense, shapes, tmp_path):
    cfg = Config.fromfile(config)
    options = dict(SMALL)
    for name in ('train', 'val', 'test'):
        split = 'train' if name == 'train' else 'val'
        dataset = f'{name}_dataloader.dataset'
        options.update({
            f'{dataset}.data_root': f'{shapes}/',
            f'{dataset}.ann_file': f'annotations/instances_{split}.json',
            f'{dataset}.data_prefix.img': f'{split}/',
            f'{dataset}.metainfo.classes': CLASSES,
            f'{name}_dataloader.num_workers': 0,
            f'{name}_dataloader.persistent_workers': False,
        })
    options['train_dataloader.dataset.pipeline.2.scale'] = '(256,192)'
    for name in ('val', 'test'):
        options[f'{name}_dataloader.dataset.pipeline.1.scale'] = '(256,192)'
        metrics = cfg[f'{name}_evaluator']
        keys = [f'{name}_evaluator'] if isinstance(metrics, dict) else [
            f'{name}_evaluator.{i}' for i in range(len(metrics))
        ]
        for key in keys:
            options[f'{key}.ann_file'] = (
                f'{shapes}/annotations/instances_val.json')
    if cfg.get('load_from'):
        options['load_from'] = dense
    else:
        options['model.init_cfg.checkpoint'] = dense
    options.update({
        'train_dataloader.batch_size': 8,  # 16 pictures
        'train_cfg.max_epochs': 1,
        'default_hooks.logger.interval': 1,
        'model.test_cfg.score_thr': 0.0,
    })
    done = subprocess.run([
        sys.executable, 'tools/train.py',
        str(config), '--work-dir',
        str(tmp_path), '--cfg-options',
        *(f'{key}={value}' for key, value in options.items())
    ], cwd=ROOT, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert 'Epoch(train) [1][2/2]' in output
    assert 'bbox_mAP_copypaste' in output
    assert 'What is trained, and what is not' in output
    assert not re.search(r'\bnan\b', output.lower())
    assert (tmp_path / 'epoch_1.pth').exists()
