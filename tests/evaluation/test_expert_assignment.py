import json

import numpy as np
import pytest
import torch

from mmdet_moe.assignment_table import assignment_table, usage
from mmdet_moe.evaluation import ExpertAssignmentMetric
from mmdet_moe.layers import Decision, Routing, usage_sums
from mmdet_moe.layers.scopes import LevelScope
from mmdet_moe.sizes import size_of


def test_sizes_are_coco_s():
    areas = np.array([1, 32**2 - 1, 32**2, 96**2 - 1, 96**2])
    assert size_of(areas).tolist() == [0, 0, 1, 1, 2]


def test_usage_by_hand():
    weights = torch.tensor([[0.75, 0.25, 0.0], [0.25, 0.75, 0.0]])
    table = usage(usage_sums(weights)[0].numpy())
    assert table['importance'] == [0.5, 0.5, 0.0]
    assert table['share'] == [1.0, 1.0, 0.0]
    assert table['living_experts'] == 2
    # mean 1/3, unbiased variance (2 * (1/6)^2 + (1/3)^2) / 2 = 1/12
    assert table['importance_cv'] == pytest.approx(3 * (1 / 12)**0.5)


def test_assignment_table_by_hand():
    weights = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]])
    table = assignment_table(weights, np.array([0, 0, 2]),
                             dict(enumerate('abc')))
    assert table['a'] == dict(
        count=2, weight=pytest.approx([0.6, 0.4]), leading=[0.5, 0.5])
    assert table['b'] == dict(count=0, weight=None, leading=None)
    assert table['c']['leading'] == [0.0, 1.0]


@pytest.fixture
def ann_file(tmp_path):
    """One picture: a small cat, a large dog whose area is not its box's."""
    boxes = [(1, [10, 10, 20, 20], 400), (2, [50, 50, 200, 200], 5000)]
    path = tmp_path / 'ann.json'
    path.write_text(
        json.dumps(
            dict(
                images=[dict(id=7, file_name='7.jpg', height=300, width=300)],
                annotations=[
                    dict(id=i, image_id=7, category_id=c, bbox=b, area=a)
                    for i, (c, b, a) in enumerate(boxes)
                ],
                categories=[
                    dict(id=1, name='cat'),
                    dict(id=2, name='dog')
                ])))
    return str(path)


def decision(weights):
    """Of one picture with L levels: (L, E) weights."""
    n = len(weights)
    routing = Routing(weights, weights.argsort(descending=True), weights,
                      torch.zeros_like(weights, dtype=torch.bool))
    return Decision(routing, LevelScope(), ((1, 8, 8), ) * n,
                    levels=tuple(range(n)), extent=(300., 300.))


def sample(scores=(0.9, 0.1), box=(10., 10., 30., 30.), levels=(0, 1)):
    """Level 0 goes to expert 0, level 1 mostly to expert 1."""
    return dict(
        img_id=7,
        decisions={'head.reg': decision(torch.tensor([[1.0, 0], [0.2, 0.8]]))},
        gt_instances=dict(
            bboxes=torch.tensor([box, (50., 50., 250., 250.)]),
            labels=torch.tensor([0, 1])),
        gt_origins=dict(
            level_ids=torch.tensor(levels),
            item_ids=torch.tensor([-1, -1]),
            levels_by='assigner'),
        pred_instances=dict(
            bboxes=torch.tensor([0., 0., 100., 100.]).repeat(len(scores), 1),
            labels=torch.ones(len(scores), dtype=torch.long),
            scores=torch.tensor(scores),
            level_ids=torch.ones(len(scores), dtype=torch.long)))


def evaluate(ann_file, *samples, **options):
    metric = ExpertAssignmentMetric(ann_file, **options)
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_tables_by_size_level_and_class(ann_file, tmp_path):
    out = tmp_path / 'new' / 'tables.json'
    scalars = evaluate(ann_file, sample(), outfile=str(out))
    table = json.loads(out.read_text())['layers']['head.reg']
    assert table['importance'] == pytest.approx([0.6, 0.4])
    objects = table['objects']
    assert objects['size']['small']['weight'] == [1.0, 0.0]
    # The dog's box would be large, its annotated area is medium.
    assert objects['size']['medium']['weight'] == pytest.approx([0.2, 0.8])
    assert objects['size']['large']['count'] == 0
    assert objects['class']['dog']['leading'] == [0.0, 1.0]
    # One detection has the score to count; its box of 100^2 is large.
    sizes = table['detections']['size']
    assert [sizes[s]['count'] for s in sizes] == [0, 0, 1]
    assert scalars['moe/head.reg_expert1_medium'] == pytest.approx(0.8)
    assert scalars['moe/head.reg_living_experts'] == 2
    assert 'moe/head.reg_expert0_large' not in scalars


def test_an_object_without_a_level_is_told(ann_file):
    metric = ExpertAssignmentMetric(ann_file)
    metric.dataset_meta = dict(classes=('cat', 'dog'))
    metric.process({}, [sample(levels=(-1, 1))])
    objects = metric.tables(metric.results)['layers']['head.reg']['objects']
    assert objects['unassigned'] == 1
    assert objects['size']['small']['count'] == 0


def test_no_detections_at_all(ann_file, capfd):
    from mmengine.logging import MMLogger
    MMLogger.get_instance('no_detections')
    assert evaluate(ann_file, sample(scores=())) == {}
    out = ''.join(capfd.readouterr())
    assert 'No detections at all' in out and ann_file in out


def test_wrong_pipelines_and_heads(ann_file):
    moved = sample(box=(20., 20., 60., 60.))
    with pytest.raises(ValueError, match='a cat at .* is not in .*ann.json'):
        evaluate(ann_file, moved)
    without = sample()
    del without['gt_instances']
    with pytest.raises(ValueError, match='LoadAnnotations'):
        evaluate(ann_file, without)
    dense = sample()
    del dense['decisions']
    with pytest.raises(ValueError, match='MoEDetector'):
        evaluate(ann_file, dense)
