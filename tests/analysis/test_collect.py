"""The real detector: what is kept, and what interventions give."""
import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import stock
import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData
from pycocotools.coco import COCO
from torch import nn

from mmdet_moe.analysis.collect import Collector, collect, evenly_spaced
from mmdet_moe.analysis.interventions import (
    DRAWS,
    Intervention,
    plan,
)
from mmdet_moe.analysis.joining import make_records
from mmdet_moe.analysis.metric import of_pictures
from mmdet_moe.analysis.parts import Parts, join
from mmdet_moe.analysis.report import _left_out
from mmdet_moe.analysis.subjects.objects import AnnotatedObjects
from mmdet_moe.assignment_table import assignment_table
from mmdet_moe.evaluation import ExpertAssignmentMetric
from mmdet_moe.files import DataError
from mmdet_moe.layers import (
    MoELayer,
    moe_layers,
    split_usage,
    usage_sums,
)
from mmdet_moe.names import weights_field
from mmdet_moe.sizes import SIZES

MOE = dict(num_experts=3, top_k=2)


def build(load_config, **parts):
    model = load_config('retinanet_moe_fpn_shapes').model
    for name, options in parts.items():
        model[name].update(options)
    model.test_cfg.score_thr = 0.0
    detector = MODELS.build(model)
    detector.init_weights()
    # what is detected, and by whom, should depend on the picture
    for layer in moe_layers(detector).values():
        nn.init.normal_(layer.gate.fc_weight, std=0.02)
    return detector.eval()


def batch(pictures=2):
    torch.manual_seed(1)
    data = demo_mm_inputs(pictures, [[3, 96, 128]] * pictures, num_classes=5,
                          num_items=[4] * pictures, use_box_type=False)
    for i, sample in enumerate(data['data_samples']):
        # By the scale of the demo, objects at the border would be outside.
        sample.set_metainfo(dict(img_id=i + 1, img_path=f'{i}.jpg',
                                 scale_factor=(1.0, 1.0)))
    return data


def annotations(data):
    coco = COCO()
    coco.dataset = dict(
        images=[dict(id=s.img_id, width=128, height=96)
                for s in data['data_samples']],
        categories=[dict(id=c + 1, name=f'class {c}') for c in range(5)],
        annotations=[
            dict(id=100 * s.img_id + i, image_id=s.img_id,
                 category_id=int(label) + 1, iscrowd=0,
                 bbox=[float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                 area=float((x2 - x1) * (y2 - y1)))
            for s in data['data_samples']
            for i, ((x1, y1, x2, y2), label) in enumerate(
                zip(s.gt_instances.bboxes, s.gt_instances.labels))
        ])
    coco.createIndex()
    return coco


def collector(detector, data, interventions=(), shown=()):
    subject = AnnotatedObjects.of(
        annotations(data), [f'class {c}' for c in range(5)],
        [s.img_id for s in data['data_samples']])
    return Collector(detector, subject, interventions=interventions,
                     shown=shown)


def records_of(run, data):
    return make_records(run, join(run.process(data)))


def same(a, b):
    """Whether both are the same detections.

    Not to the last bit: a convolution may round in another way if there are
    more samples in a batch. So not in the same order either, where scores are
    nearly equal.
    """
    pairs = np.isclose(a['scores'][:, None], b['scores'], rtol=1e-4) & (
        np.isclose(a['bboxes'][:, None], b['bboxes'], rtol=0, atol=1e-3)
        .all(axis=2))
    return pairs.any(axis=0).all() and pairs.any(axis=1).all()


@pytest.mark.parametrize('parts', [
    dict(bbox_head=dict(moe=MOE)),
    dict(bbox_head=dict(moe=MOE, moe_at='every', moe_in='reg')),
    dict(bbox_head=dict(moe=MOE, shared_gate=True)),
    dict(bbox_head=dict(moe=dict(MOE, scope=dict(type='PatchScope')),
                        norm_cfg=None, moe_in='cls')),
    dict(bbox_head=dict(moe=MOE, moe_in='cls'),
         neck=dict(type='MoEFPN', moe=MOE, moe_in='lateral')),
], ids=lambda parts: str(parts)[:60])
def test_interventions_are_what_separate_runs_give(load_config, parts):
    detector = build(load_config, **parts)
    layers = moe_layers(detector)
    chosen = [i for i in plan(layers) if i.value in (0, 1, (0, 1), (2, 0))
              or i.kind == 'top_k']
    run = collector(detector, batch(), chosen)
    found, features = [], []

    def predicted(sample):
        found.append({key: sample.pred_instances[key].numpy()
                      for key in ('scores', 'bboxes')})
        return AnnotatedObjects.predicted(run.subject, sample)

    run.subject.predicted = predicted
    detector.backbone.conv1.register_forward_hook(
        lambda *_: features.append(1))
    parts = run.process(batch())
    assert len(features) == 1
    # K' = K changes nothing, so it is not run
    run_anew = [i for i in chosen if (i.kind, i.value) != ('top_k', 2)]
    assert len(found) == 2 * (1 + len(run_anew))
    as_it_is = found[:2]
    changed = dict.fromkeys(chosen, False)
    for n, i in enumerate(run_anew, 1):
        with i.applied(detector):
            separate = detector.test_step(batch())
        for ours, sample, usual in zip(found[2 * n:], separate, as_it_is):
            other = {key: sample.pred_instances[key].numpy()
                     for key in ('scores', 'bboxes')}
            assert same(ours, other)
            changed[i] |= not same(ours, usual)
    # Nothing changes without an expert that is not used, or with another one
    # in its place, nor with K' = K.
    used = {name: split_usage(layer.sums.sum(axis=(0, 1)))[3] > 0
            for name, layer in make_records(run, join(parts)).layers.items()}
    assert changed == {
        i: i.value != MOE['top_k'] if i.kind == 'top_k' else
        i.kind in ('expert', 'random_routing') or
        used[i.layer][i.value[0] if i.kind == 'replace' else i.value]
        for i in chosen}
    assert all('forward' not in vars(m) for m in detector.modules())
    assert all(layer.forcing is None for layer in layers.values())


def test_what_is_kept_of_the_pictures(load_config):
    detector = build(
        load_config, bbox_head=dict(moe=MOE, moe_in='reg'),
        neck=dict(type='MoEFPN', moe=MOE, moe_in='output'))
    data = batch()
    reference = detector.test_step(batch())
    records = records_of(collector(detector, data, shown=[0]), batch())
    head = records.layers['bbox_head.reg_subnet']
    assert head.sums.shape == (2, 5, 2 + 2 * 3)  # two pictures, five levels
    assert records.shown == [0]
    for b, sample in enumerate(reference):
        mine = records.labelled[records.labelled.picture == b]
        assert mine.groups['level'].tolist() == (
            sample.gt_origins.level_ids.tolist())
        found = records.predicted[records.predicted.picture == b]
        for name in records.layers:
            layer, decision = records.layers[name], sample.decisions[name]
            assert layer.sums[b].sum(axis=0) == pytest.approx(
                usage_sums(decision.weights)[0].numpy())
            assert (b in layer.grids) == (b == 0)
            if b == 0:
                assert [grid.tolist() for grid in layer.grids[0]] == [
                    decision.weights[decision.grid(m)].tolist()
                    for m in range(len(decision.shapes))]
            assert records.weights(name, found) == pytest.approx(
                sample.pred_instances[weights_field(name)].numpy())
            assert layer.logits.shape == layer.weights.shape
    # the mean of the map that an object is on
    pictures = detector.data_preprocessor(batch(), False)['inputs']
    with torch.no_grad():
        means = torch.stack([x.mean(dim=(2, 3)) for x in
                             detector.extract_feat(pictures)], dim=1)
    at = records.labelled.picture, records.labelled.groups['level']
    assert records.features['bbox_head.reg_subnet'] == pytest.approx(
        means[at].numpy(), abs=1e-4)
    # a convolution of the neck sees one map, so all objects are under it
    neck = records.layers['neck.fpn_convs.0.conv']
    assert neck.weights.shape == (2, 3)
    weights = records.weights('neck.fpn_convs.0.conv', records.labelled)
    assert (weights == neck.weights[records.labelled.picture]).all()
    rows = [json.loads(line) for line in records.lines]
    assert len(rows) == len(records.labelled) == 8
    assert rows[0]['weights']['neck.fpn_convs.0.conv'] == pytest.approx(
        weights[0].tolist())


def test_layers_that_do_not_decide_about_pictures_are_left_out(load_config):
    detector = build(load_config, bbox_head=dict(moe=MOE, moe_in='cls'))
    for name in ('regions', 'idle', 'maps'):
        detector.add_module(name, MoELayer(
            lambda: nn.Conv2d(8, 8, 1), 8, **MOE).eval())

    def use(*_):
        detector.regions(torch.rand(7, 8, 3, 3))
        detector.maps([torch.rand(2, 8, 3, 3)] * 2)

    detector.bbox_head.register_forward_hook(use)
    data = batch()
    records = records_of(
        collector(detector, data, plan(moe_layers(detector))), data)
    assert list(records.layers) == ['bbox_head.cls_subnet']
    assert {i.layer for i in records.interventions} == set(records.layers)
    assert 'about 7 things where there are 2' in records.left_out['regions']
    assert 'not used in prediction' in records.left_out['idle']
    assert 'it sees maps of (3, 3)' in records.left_out['maps']
    tables = records.labelled.under.keys() | records.predicted.under.keys()
    assert tables == set(records.layers)


def test_a_rule_for_objects_that_fails_leaves_no_layer_out(load_config):
    detector = build(load_config, bbox_head=dict(moe=MOE, moe_in='cls'))
    data = batch()
    run = collector(detector, data)
    detector.decision_reporter.provenance.objects = lambda *_: 1 / 0
    records = records_of(run, data)
    assert list(records.layers) == ['bbox_head.cls_subnet']
    assert len(records.labelled)
    note, = _left_out(records)
    assert 'MoE layer' not in note and 'ZeroDivisionError' in note


def test_no_layer_decides_about_pictures(load_config):
    detector = MODELS.build(load_config('retinanet_fpn_shapes').model).eval()
    detector.idle = build(
        load_config, bbox_head=dict(moe=MOE, moe_in='cls')).bbox_head
    data = batch()
    with pytest.raises(ValueError, match='idle.cls_subnet: it is not used'):
        records_of(collector(detector, data), data)


def test_a_gate_that_gives_nan_is_told(load_config):
    detector = build(load_config, bbox_head=dict(moe=MOE, moe_in='cls'))
    detector.bbox_head.cls_subnet.gate.fc_weight.data[0, 0] = torch.nan
    data = batch()
    with pytest.raises(DataError, match='cls_subnet gives NaN for .* 0.jpg'):
        collector(detector, data).process(data)


def test_ignored_objects_are_no_objects(load_config):
    """As for CocoDataset; COCOeval would take them for objects."""
    detector, data = build(load_config, bbox_head=dict(moe=MOE)), batch()
    run = collector(detector, data, plan(moe_layers(detector))[:1])
    run.subject.coco.anns[100]['ignore'] = 1
    assert len(records_of(run, data).labelled) == 7
    assert run.subject.coco.anns[100]['ignore'] == 1


def test_metric_and_report_say_the_same(load_config, tmp_path):
    """Of patches too: the same decisions are read."""
    detector = build(
        load_config, bbox_head=dict(
            moe=dict(MOE, scope=dict(type='PatchScope')), norm_cfg=None))
    data = batch()
    run = collector(detector, data)
    records = records_of(run, batch())
    path = tmp_path / 'ann.json'
    path.write_text(json.dumps(run.subject.coco.dataset))
    metric = ExpertAssignmentMetric(str(path), score_thr=0.0)
    metric.dataset_meta = dict(classes=run.subject.classes)
    metric.process({}, [s.to_dict() for s in detector.test_step(batch())])
    for name, table in metric.tables(metric.results)['layers'].items():
        layer = records.layers[name]
        number, _, weights, _ = split_usage(layer.sums.sum(axis=(0, 1)))
        assert table['importance'] == pytest.approx(weights / number)
        # each column sums to 1, as a patch is one decision
        objects = records.labelled[records.located(name, records.labelled)]
        by_size = assignment_table(records.weights(name, objects),
                                   objects.groups['size'],
                                   dict(enumerate(SIZES)))
        for size, row in by_size.items():
            other = table['objects']['size'][size]
            assert other['count'] == row['count']
            if row['count']:
                assert other['weight'] == pytest.approx(row['weight'])


@pytest.mark.parametrize('name, at, number, levels', [
    ('faster_rcnn', 'roi_head.bbox_head.shared_fcs.1', 50, 4),
    ('detr', 'decoder.layers.1.ffn', 30, 0)])
def test_regions_and_queries_are_decisions(name, at, number, levels):
    """An object is under that of the detection that matches it."""
    model = stock.stock(name)
    detector = stock.build(ConfigDict(
        model, type='MoEDetector', detector=model.type,
        experts=[dict(at=at, **MOE)]))
    data = batch()
    found = detector.test_step(batch())
    # what is annotated is what was detected, but for one object
    for sample, other in zip(data['data_samples'], found):
        best = other.pred_instances[:4]
        sample.gt_instances = InstanceData(
            bboxes=best.bboxes.clone(), labels=best.labels.clone())
        sample.gt_instances.bboxes[3] = torch.tensor([0., 0, 2, 2])
    records = records_of(collector(detector, data), data)
    layer = records.layers[at]
    # regions have no order, and queries have
    assert layer.sums.shape[:2] == (2, 1 if levels else number)
    assert layer.maps == 0 and layer.sums[..., 0].sum() == 2 * number
    assert records.levels == levels
    assert not levels or (records.labelled.groups['level'] >= 0).all()
    under = records.labelled.under[at]
    for b, other in enumerate(found):
        items = other.pred_instances.item_ids[:4]
        # Without NMS the best of several detections of one place matches.
        sure = 3 if levels else 1
        assert layer.weights[under[4 * b:4 * b + sure]] == pytest.approx(
            other.decisions[at].weights[items[:sure]].numpy())
        assert under[4 * b + 3] == -1


def test_what_boxes_are_grouped_by(load_config):
    """An object has the domain of its picture, if that has one."""
    data = batch(3)
    run = collector(build(load_config, bbox_head=dict(moe=MOE)), data)
    for img_id, domain in ((1, 'late'), (2, 'early')):
        run.subject.coco.imgs[img_id]['domain'] = domain
    for category in run.subject.coco.cats.values():
        category['supercategory'] = 'x' if category['id'] < 3 else 'w'
    records = records_of(run, data)
    assert list(records.groupings) == [
        'size', 'level', 'class', 'supercategory', 'domain']
    assert records.groupings['domain'] == ['early', 'late']
    objects = records.labelled
    assert objects.groups['domain'].tolist() == [1] * 4 + [0] * 4 + [-1] * 4
    assert (objects.groups['supercategory'] == (
        objects.groups['class'] < 2)).all()
    labels = torch.cat([s.gt_instances.labels for s in batch(3)[
        'data_samples']])
    assert objects.groups['class'].tolist() == labels.tolist()
    assert 'domain' not in records.described(objects, 11)
    assert records.described(objects, 0)['domain'] == 'late'


def test_pictures_to_show_are_evenly_spaced():
    assert evenly_spaced(10, 4) == [0, 3, 6, 9]
    assert evenly_spaced(2, 40) == [0, 1]
    assert evenly_spaced(10, 0) == evenly_spaced(0, 40) == []


def test_the_plan():
    layers = dict(a=MoELayer(lambda: nn.Conv2d(1, 1, 1), 1, **MOE))
    assert [(i.kind, i.value) for i in plan(layers)] == [
        ('expert', 0), ('expert', 1), ('expert', 2), ('drop', 0), ('drop', 1),
        ('drop', 2), ('replace', (0, 1)), ('replace', (0, 2)),
        ('replace', (1, 0)), ('replace', (1, 2)), ('replace', (2, 0)),
        ('replace', (2, 1)), ('top_k', 1), ('top_k', 2), ('top_k', 3),
        *(('random_routing', seed) for seed in range(DRAWS))]
    assert [i.kind for i in plan(layers, ['drop'])] == ['drop'] * 3
    assert plan(layers)[0] == Intervention('a', 'expert', 0)


def test_weights_over_boxes_are_those_of_the_same_objects(load_config):
    """By hand from the maps of the decisions, object by object."""
    detector = build(load_config, bbox_head=dict(
        moe=dict(MOE, scope=dict(type='PositionScope')), moe_at='block',
        moe_in='cls'))
    records = records_of(collector(detector, batch(), shown=[0, 1]), batch())
    name, = records.layers
    objects, over = records.labelled, records.over[name]
    assert over.shape == (len(objects), 3) and len(objects) > 2
    for row in range(len(objects)):
        layer, picture = records.layers[name], objects.picture[row]
        grid = layer.grids[picture][objects.groups['level'][row]]
        start, (height, width) = layer.frames[picture]
        assert not start.any()
        x1, y1, x2, y2 = objects.box[row]
        inside = [
            grid[i, j]
            for i in range(grid.shape[0]) for j in range(grid.shape[1])
            if x1 <= (j + 0.5) / grid.shape[1] * width <= x2
            and y1 <= (i + 0.5) / grid.shape[0] * height <= y2
        ] or [records.weights(name, objects[[row]])[0]]
        assert over[row] == pytest.approx(np.mean(inside, axis=0), abs=1e-5)


def test_what_was_seen_before_a_cut_is_not_seen_again(
        load_config, tmp_path, monkeypatch):
    monkeypatch.setattr('mmdet_moe.analysis.parts.PICTURES', 1)
    detector = build(load_config, bbox_head=dict(moe=MOE))
    data = batch(3)
    runs = plan(moe_layers(detector), ['drop'])
    batches = [{key: x[i:i + 1] for key, x in data.items()} for i in range(3)]
    processed = []

    def go(cut_at=None, resume=True):
        run = collector(detector, data, runs)
        process = run.process

        def one(some):
            img_id = some['data_samples'][0].img_id
            if img_id == cut_at:
                raise KeyboardInterrupt
            processed.append(img_id)
            return process(copy.deepcopy(some))

        run.process = one
        parts = Parts(tmp_path / 'parts', {}, resume=resume)
        collect(SimpleNamespace(test_dataloader=batches), run, parts)
        return make_records(run, parts.read())

    with pytest.raises(KeyboardInterrupt):
        go(cut_at=3, resume=False)
    cut = go()
    assert processed == [1, 2, 3]
    whole = go(resume=False)
    assert processed == [1, 2, 3, 1, 2, 3]
    assert cut.lines == whole.lines and cut.pictures == whole.pictures
    assert of_pictures(cut.metric, 3) == pytest.approx(
        of_pictures(whole.metric, 3), nan_ok=True)
    for i, ap in cut.interventions.items():
        assert of_pictures(ap, 3) == pytest.approx(
            of_pictures(whole.interventions[i], 3), nan_ok=True)


def test_experts_are_drawn_for_each_batch_anew_and_again_alike(load_config):
    detector = build(load_config, bbox_head=dict(moe=MOE, moe_in='cls'))
    layer, = moe_layers(detector).values()
    inputs = [torch.randn(16, 64, 4, 4)]
    draws = []
    for value, number in ((1, 0), (1, 0), (1, 1), (0, 1)):
        intervention = Intervention(
            'bbox_head.cls_subnet', 'random_routing', value)
        with intervention.applied(detector, number):
            draws.append(layer.decide(inputs).weights > 0)
    assert torch.equal(draws[0], draws[1])
    assert len({tuple(d.flatten().tolist()) for d in draws}) == 3


def test_the_order_of_the_pictures_does_not_matter(load_config, tmp_path):
    """Nor how many processes saw them, nor that one was cut off."""
    detector = build(load_config, bbox_head=dict(
        moe=dict(MOE, scope=dict(type='PositionScope')), moe_at='block'))
    data = batch(3)
    run = collector(detector, data, plan(moe_layers(detector), ['drop']),
                    shown=[1])
    seen = run.process(data)
    about = dict(checkpoint='epoch_1.pth')
    for rank, pictures in enumerate(([2, 0], [1])):
        parts = Parts(tmp_path / 'parts', about, rank=rank)
        for i in pictures:
            parts.add(seen[i])
        parts.write()
    with pytest.raises(DataError, match='another config or checkpoint'):
        Parts(tmp_path / 'parts', dict(checkpoint='epoch_2.pth'), resume=True)
    parts = Parts(tmp_path / 'parts', about, resume=True)
    assert parts.read()['pictures']['index'].tolist() == [2, 0, 1]
    one, other = make_records(run, join(seen)), make_records(run, parts.read())
    assert one.pictures == other.pictures and one.lines == other.lines
    assert of_pictures(one.metric, 3) == pytest.approx(
        of_pictures(other.metric, 3), nan_ok=True)
    for i, ap in one.interventions.items():
        assert of_pictures(ap, 3) == pytest.approx(
            of_pictures(other.interventions[i], 3), nan_ok=True)
    for name in one.layers:
        a, b = one.layers[name], other.layers[name]
        assert np.array_equal(a.sums, b.sums)
        assert np.array_equal(a.together, b.together)
        for x, y in zip(a.grids[1], b.grids[1]):
            assert np.array_equal(x, y)
        for things in ('labelled', 'predicted'):
            x, y = getattr(one, things), getattr(other, things)
            assert np.array_equal(x.box, y.box)
            located = one.located(name, x)
            assert np.array_equal(located, other.located(name, y))
            assert np.array_equal(one.weights(name, x[located]),
                                  other.weights(name, y[located]))
        assert np.array_equal(one.over[name], other.over[name])
    with pytest.raises(DataError, match='of 3 test pictures 2 were seen'):
        make_records(run, join(seen[:2]))
    assert len(list(Parts(tmp_path / 'parts', about).folder.iterdir())) == 1
