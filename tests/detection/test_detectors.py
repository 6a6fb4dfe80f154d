"""Every detector that has a config: experts in it, from build to metric."""
import copy
import json

import detectors
import numpy as np
import pytest
import stock
import torch
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks

from mmdet_moe.evaluation import ExpertAssignmentMetric
from mmdet_moe.layers import add_noise, collect, moe_layers, traced, upcycle
from mmdet_moe.names import weights_field

#: By folder: the config with experts, and the same detector made small.
CONFIGS = dict(
    fcos='fcos_moe_r50_fpn_1x_coco',
    atss='atss_moe_r50_fpn_1x_coco',
    gfl='gfl_moe_r50_fpn_1x_coco',
    vfnet='vfnet_moe_r50_fpn_1x_coco',
    rtmdet='rtmdet_moe_tiny_8xb32-300e_coco',
    yolox='yolox_moe_nano_8xb8-300e_coco',
    faster_rcnn='faster-rcnn_moe_r50_fpn_1x_coco',
    cascade_rcnn='cascade-rcnn_moe_r50_fpn_1x_coco',
    mask_rcnn='mask-rcnn_moe_r50_fpn_1x_coco',
    deformable_detr='deformable-detr_moe_r50_16xb2-50e_coco',
    dino='dino-4scale_moe_r50_8xb2-12e_coco')
#: Of two pictures of 96 x 128 pixels, or less.
OBJECTS = [[[8, 8, 40, 40], [30, 20, 90, 80]], [[4, 4, 24, 20]]]
SIZE = 96, 128
LEVELS = dict(fcos=5, atss=5, gfl=5, vfnet=5, rtmdet=3, yolox=3,
              faster_rcnn=4, cascade_rcnn=4, mask_rcnn=4)


def model(name):
    if name in detectors.HEADS:
        small = detectors.small(detectors.HEADS[name])
        small.test_cfg.score_thr = 0.0
        return small
    return stock.stock(name)


@pytest.fixture(params=CONFIGS)
def pair(request, load_config):
    """The name, a dense detector, and its twin with experts."""
    name = request.param
    cfg = load_config(f'{name}/{CONFIGS[name]}')
    small = model(name)
    assert cfg.model.type == 'MoEDetector'
    assert cfg.model.detector == small.type
    assert cfg.custom_hooks[0].type == 'MoEHook'
    dense = stock.build(copy.deepcopy(small))
    moe = MODELS.build(
        dict(small, type='MoEDetector', detector=small.type,
             experts=cfg.model.experts))
    report = upcycle(moe, dense.state_dict())
    assert report.matches, report
    return name, dense.eval(), moe.eval()


def batch():
    torch.manual_seed(1)
    inputs, samples = stock.pictures(OBJECTS)
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(img_id=i, img_path=f'{i}.jpg'))
    return inputs, samples


def predict(detector):
    inputs, samples = batch()
    with torch.no_grad():
        return detector(inputs, [s.clone() for s in samples], mode='predict')


def same(a, b):
    """Equal as sets: rounding may swap scores that are nearly equal."""
    rows = [torch.cat([x.bboxes, 100 * x.labels[:, None],
                       100 * x.scores[:, None]], dim=1) for x in (a, b)]
    distance = (rows[0][:, None] - rows[1][None]).abs().amax(dim=-1)
    return len(a) == len(b) > 0 and max(
        distance.amin(dim=0).max(), distance.amin(dim=1).max()) < 1e-2


def test_any_detector(pair, tmp_path):
    name, dense, moe = pair
    layers = moe_layers(moe)
    found = predict(moe)
    for a, b in zip(predict(dense), found):
        assert same(a.pred_instances, b.pred_instances)
    _check_report(name, layers, found)
    _check_metric(tmp_path, layers, found)
    add_noise(moe, 0.3)
    _check_training(moe, layers)
    torch.save(moe.state_dict(), tmp_path / 'moe.pth')
    again = MODELS.build(_config(name, moe))
    again.load_state_dict(torch.load(tmp_path / 'moe.pth'))
    for a, b in zip(predict(moe.eval()), predict(again.eval())):
        stock.assert_same(a.pred_instances, b.pred_instances)


def _config(name, moe):
    small = model(name)
    layer = next(iter(moe_layers(moe).values()))
    return dict(small, type='MoEDetector', detector=small.type, experts=[
        dict(at=list(moe_layers(moe)), num_experts=layer.num_experts,
             top_k=layer.top_k)])


def _check_report(name, layers, found):
    for sample in found:
        instances = sample.pred_instances
        assert not sample.undecided
        assert list(sample.decisions) == list(layers)
        levels = instances.get('level_ids')
        assert (levels is not None) == (name in LEVELS)
        if levels is not None:
            assert 0 <= levels.min() and levels.max() < LEVELS[name]
        items = instances.get('item_ids')
        assert (items is not None) == (name not in detectors.HEADS)
        assert items is None or items.min() >= 0
        known = 0
        for layer in layers:
            weights = instances[weights_field(layer)]
            assert weights.shape == (len(instances), 4)
            decided = ~weights.isnan().any(dim=1)
            known = known + decided.long()
            sums = weights[decided].sum(dim=1)
            assert torch.allclose(sums, torch.ones_like(sums))
            assert ((weights[decided] > 0).sum(dim=1) <= 2).all()
        # the towers of YOLOX are of one level each: one for cls, one for reg
        assert (known == (2 if name == 'yolox' else len(layers))).all()
        origins = sample.gt_origins
        assert len(origins.level_ids) == len(sample.gt_instances)
        assert origins.levels_by == (
            'assigner' if name in LEVELS else 'detection')


def _check_metric(tmp_path, layers, found):
    path = tmp_path / 'ann.json'
    path.write_text(json.dumps(dict(
        images=[dict(id=i, height=96, width=128) for i in range(2)],
        categories=[dict(id=c, name=f'{c}') for c in range(5)],
        annotations=[
            dict(id=10 * i + j, image_id=i, category_id=j, area=float(
                (x2 - x1) * (y2 - y1)), bbox=[x1, y1, x2 - x1, y2 - y1])
            for i, boxes in enumerate(OBJECTS)
            for j, (x1, y1, x2, y2) in enumerate(boxes)])))
    metric = ExpertAssignmentMetric(str(path), score_thr=0.0)
    metric.dataset_meta = dict(classes=tuple('01234'))
    metric.process({}, [sample.to_dict() for sample in found])
    tables = metric.tables(metric.results)
    assert list(tables['layers']) == list(layers)
    for table in tables['layers'].values():
        detections = table['detections']
        counted = sum(row['count'] for row in detections['size'].values())
        assert counted + detections['unassigned'] == sum(
            len(s.pred_instances) for s in found)
        assert np.sum(table['importance']) == pytest.approx(1)


def _check_training(moe, layers):
    moe.train()
    inputs, samples = batch()
    for sample in samples:
        height, width = sample.img_shape
        if hasattr(moe, 'roi_head'):
            sample.gt_instances.masks = BitmapMasks(
                np.ones((len(sample.gt_instances), height, width), np.uint8),
                height, width)
    for layer in layers.values():
        layer.recording = True
    with traced(moe) as decisions:
        losses = moe(inputs, samples, mode='loss')
    for summary in collect(layers).values():
        losses.update({f'loss_{k}': v for k, v in summary.losses.items()})
    total, _ = moe.parse_losses(losses)
    assert torch.isfinite(total)
    moe.zero_grad()
    total.backward()
    for name, layer in layers.items():
        assert any(p.grad.abs().sum() > 0 for p in layer.gate.parameters())
        used = torch.cat([d.weights for d in decisions[name]]).amax(dim=0) > 0
        # Where no object is, as on most levels, that of a regression is 0.
        for e, expert in enumerate(layer.experts):
            assert all((p.grad is not None) == used[e]
                       for p in expert.parameters()), (name, e)
    assert all(any(p.grad.abs().sum() > 0 for p in layer.experts.parameters()
                   if p.grad is not None)
               for name, layer in layers.items() if 'reg_' not in name)
