"""Every config builds, and gives losses and predictions at small size."""
import ast
from pathlib import Path

import pytest
import torch
import yaml
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs

from mmdet_moe.conversion.dense_twin import dense_twin
from mmdet_moe.layers import KMeansGate, domains_are, moe_layers
from mmdet_moe.names import weights_field

FOLDER = Path(__file__).parents[1] / 'configs'
STUDY = sorted((FOLDER / 'retinanet_moe').glob('*.py'))
OBJECTS = sorted(FOLDER.glob('positions/*.py')) + sorted(
    FOLDER.glob('domains/*.py'))
#: Those of RetinaNet; the others are built in tests/detection/test_detectors.py
#: and tests/classification.
CONFIGS = [
    str(p.relative_to(FOLDER).with_suffix(''))
    for p in sorted(FOLDER.glob('*.py')) + STUDY + OBJECTS
]
EVERY = sorted(
    str(p.relative_to(FOLDER.parent)) for p in FOLDER.glob('**/*.py')
    if p.parent.name != '_base_' and not p.name.startswith('grid'))
#: Dense detectors and the same with experts, trained alike.
TWINS = {
    'retinanet_fpn_shapes': 'retinanet_moe_fpn_shapes',
    'retinanet_fpn_bccd': 'retinanet_moe_fpn_bccd',
    'domains/retinanet_mobilenet-v2_fpn_domains':
    'domains/retinanet_moe_mobilenet-v2_fpn_domains',
    'domains/yolox_nano_domains': 'domains/yolox_moe_nano_domains',
    'domains/retinanet_fpn_domain_shapes':
    'domains/retinanet_moe_fpn_domain_shapes',
    'atss/atss_r18_fpn_shapes': 'atss/atss_moe_r18_fpn_shapes',
    'rtmdet/rtmdet_tiny_shapes': 'rtmdet/rtmdet_moe_tiny_shapes',
    'rtmdet/rtmdet_tiny_longer_shapes':
    'rtmdet/rtmdet_moe_tiny_upcycled_shapes',
    'faster_rcnn/faster-rcnn_r18_fpn_shapes':
    'faster_rcnn/faster-rcnn_moe_r18_fpn_shapes',
    'faster_rcnn/faster-rcnn_r18_fpn_bccd':
    'faster_rcnn/faster-rcnn_moe_r18_fpn_bccd',
    'faster_rcnn/faster-rcnn_mobilenet-v2_fpn_domains':
    'faster_rcnn/faster-rcnn_moe_mobilenet-v2_fpn_domains'
}


def small(model):
    """The same detector with a ResNet-18 of a quarter of the channels; what is
    not a ResNet is small, and only not loaded."""
    if 'depth' in model.backbone:
        model.backbone.update(depth=18, base_channels=16, stem_channels=16)
        model.neck.update(in_channels=[16, 32, 64, 128], out_channels=64)
    model.backbone.init_cfg = model.init_cfg = None
    model.bbox_head.update(
        in_channels=64, feat_channels=64, stacked_convs=2)
    return model


@pytest.mark.parametrize('name', CONFIGS)
def test_config(load_config, name):
    cfg = load_config(name)
    detector = MODELS.build(small(cfg.model))
    layers = moe_layers(detector)
    assert bool(layers) == ('moe' in name)
    for layer in layers.values():
        layer.recording = True  # as the hook does
        if isinstance(layer.gate, KMeansGate):  # as its hook finds them
            layer.gate.centroids.normal_()
            layer.gate.scale.fill_(1)
    hooks = [h['type'] for h in cfg.get('custom_hooks', ())]
    assert ('MoEHook' in hooks) == ('moe' in name)

    data = detector.data_preprocessor(
        demo_mm_inputs(
            2, [[3, 64, 96], [3, 64, 64]],
            num_classes=cfg.model.bbox_head.num_classes), True)
    detector.train()
    asked = [c for layer in layers.values() for c in layer.soft_constraints
             if c.needs_domains]
    with domains_are(list(asked[0].experts)[:2] if asked else None):
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
    detector.bbox_head.test_cfg.score_thr = 0.0
    with torch.no_grad():
        samples = detector(**data, mode='predict')
    for sample in samples:
        found = sample.pred_instances
        assert len(found) > 0
        assert torch.isfinite(found.bboxes).all()
        assert ('level_ids' in found) == bool(layers)
        for layer in layers:
            weights = found[weights_field(layer)]
            assert weights.shape == (len(found), layers[layer].num_experts)
            # a layer of one level decides about the detections of that level
            level = layer.rpartition('multi_level_cls_convs.')[2]
            decided = (found.level_ids == int(level) if level.isdigit() else
                       torch.ones(len(found), dtype=torch.bool))
            sums = weights.sum(dim=1)
            assert torch.allclose(sums[decided], sums.new_ones(()))
            assert sums[~decided].isnan().all()


def test_every_config_is_in_the_model_index():
    root = FOLDER.parent
    index = yaml.safe_load((root / 'model-index.yml').read_text())
    listed = [
        model['Config'] for metafile in index['Import']
        for model in yaml.safe_load((root / metafile).read_text())['Models']
    ]
    assert sorted(listed) == EVERY


def test_the_table_of_the_study_says_what_the_configs_say():
    table = (FOLDER / 'retinanet_moe' / 'README.md').read_text()
    rows = [line for line in table.splitlines() if line.startswith('| [')]
    expected = []
    for path in STUDY:
        name = path.stem.removeprefix('retinanet_moe_').removesuffix('_coco')
        what = ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
        expected.append(f'| [`{name}`]({path.name}) | {what} |')
    assert sorted(rows) == sorted(expected)


def test_variants_of_the_study_differ_from_each_other(load_config):
    models = {}
    for path in STUDY:
        model = load_config(f'retinanet_moe/{path.stem}').model
        same = [name for name, other in models.items() if other == model]
        assert not same, (path.stem, same)
        models[path.stem] = model


def test_the_twins_differ_by_their_experts_only(load_config):
    for pair in TWINS.items():
        dense, moe = map(load_config, pair)
        start = [(cfg.model.pop('init_cfg', None) or {}).get(
            'checkpoint', cfg.get('load_from')) for cfg in (dense, moe)]
        assert start[0] == start[1]
        assert dense_twin(moe.model) == dense.model
        for key in ('train_dataloader', 'optim_wrapper', 'param_scheduler',
                    'train_cfg', 'randomness'):
            assert moe[key] == dense[key]
