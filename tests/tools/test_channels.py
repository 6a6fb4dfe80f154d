"""Images of five channels, from training to report."""
import json
import shutil

import cv2
import numpy as np
from command import MOE, ROOT, on, tool

#: A loader of arrays; all else is the demo's.
CONFIG = '''
_base_ = {base!r}
custom_imports = dict(imports=['mmdet_moe', 'array_loader'])
model = dict(
    data_preprocessor=dict(mean=None, std=None, bgr_to_rgb=False),
    backbone=dict(in_channels=5))
train_pipeline = [dict(type='LoadArray'), *_base_.train_pipeline[1:]]
test_pipeline = [dict(type='LoadArray'), *_base_.test_pipeline[1:]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
'''


def test_images_of_five_channels(shapes, tmp_path):
    root = tmp_path / 'data'
    shutil.copytree(shapes, root)
    for split in ('train', 'val'):
        ann_file = root / 'annotations' / f'instances_{split}.json'
        content = json.loads(ann_file.read_text())
        for image in content['images']:
            path = root / split / image['file_name']
            pixels = cv2.imread(str(path))
            np.save(path.with_suffix('.npy'), np.concatenate(
                [pixels, pixels[..., :2]], axis=2))
            image['file_name'] = path.with_suffix('.npy').name
        ann_file.write_text(json.dumps(content))
    moe, dense = (tmp_path / f'{name}.py' for name in ('moe', 'dense'))
    moe.write_text(CONFIG.format(base=str(ROOT / MOE)))
    dense.write_text(CONFIG.format(
        base=str(ROOT / MOE.replace('_moe', ''))))
    options = on(root, 'train_cfg.max_epochs=1',
                 'model.test_cfg.score_thr=0.0')
    # The dense config has one metric.
    one = [o for o in options if '_evaluator.1' not in o]
    one = [o.replace('_evaluator.0', '_evaluator') for o in one]
    tool('tools/train.py', dense, '--work-dir', tmp_path / 'work', *one)
    dense_checkpoint = tmp_path / 'work' / 'epoch_1.pth'
    output = tool('tools/model_converters/upcycle.py', moe, dense_checkpoint,
                  tmp_path / 'moe.pth')
    assert 'detections equal' in output
    tool('tools/analysis_tools/expert_report.py', moe, tmp_path / 'moe.pth',
         '--work-dir', tmp_path / 'report', '--pictures', 2,
         '--resamples', 20, '--permutations', 19, *options)
    report = json.loads((tmp_path / 'report' / 'report.json').read_text())
    assert not any('image of the page' in note for note in report['notes'])
    assert 'backbone' in tool('tools/analysis_tools/get_flops.py', moe)
