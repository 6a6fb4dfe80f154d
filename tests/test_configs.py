"""Every config builds, and gives losses and predictions at small size."""
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs

from mmdet_moe.layers import moe_layers

CONFIGS = sorted(
    p.stem for p in (Path(__file__).parents[1] / 'configs').glob('*.py'))


@pytest.mark.parametrize('name', CONFIGS)
def test_config(load_config, name):
    cfg = load_config(name)
    detector = MODELS.build(cfg.model)
    layers = moe_layers(detector)
    assert bool(layers) == ('moe' in name)
    # The hook is there exactly where a layer has constraints.
    hooks = [h['type'] for h in cfg.get('custom_hooks', ())]
    assert ('MoEHook' in hooks) == any(
        layer.constrained for layer in layers.values())

    data = detector.data_preprocessor(
        demo_mm_inputs(
            2, [[3, 64, 96], [3, 64, 64]],
            num_classes=cfg.model.bbox_head.num_classes), True)
    detector.train()
    losses = detector(**data, mode='loss')
    for layer in layers.values():
        summary = layer.collect()
        assert len(summary.losses) == len(layer.soft_constraints)
        losses.update(summary.losses)
    total, _ = detector.parse_losses(
        {f'loss_{name}': loss for name, loss in losses.items()})
    total.backward()
    assert torch.isfinite(total)
    detector.eval()
    with torch.no_grad():
        samples = detector(**data, mode='predict')
    for sample in samples:
        found = sample.pred_instances
        # The mean prior of 0.01 is below the score that counts.
        assert len(found) == 0 or found.scores.min() >= 0.05
        assert torch.isfinite(found.bboxes).all()
        tagged = cfg.model.bbox_head.type == 'MoERetinaHead'
        assert ('level_ids' in found) == tagged


def test_every_config_is_in_the_model_index():
    root = Path(__file__).parents[1]
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    listed = [
        model['Config'] for metafile in index['Import']
        for model in yaml.safe_load((root / metafile).read_text())['Models']
    ]
    assert sorted(listed) == [f'configs/{name}.py' for name in CONFIGS]


def test_the_twins_differ_by_their_experts_only(load_config):
    for data in ('shapes', 'bccd'):
        dense = load_config(f'retinanet_fpn_{data}')
        moe = load_config(f'retinanet_moe_fpn_{data}')
        head = moe.model.bbox_head
        head.pop('moe')
        head.type = 'RetinaHead'
        assert moe.model == dense.model
        for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler',
                    'train_cfg', 'randomness'):
            assert moe[key] == dense[key]
