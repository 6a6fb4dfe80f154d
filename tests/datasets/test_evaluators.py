"""Metrics and the data that they are given."""
import json
import warnings
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_moe.datasets.checks import check_coco_dataset
from mmdet_moe.datasets.evaluators import check_evaluator
from mmdet_moe.detection.checks import check_config
from mmdet_moe.files import DataError


class Data:
    """A tiny data set of two images with an object each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for i in (1, 2):
            (folder / f'{i}.jpg').write_bytes(b'not read')
        self.content = dict(
            images=[dict(id=i, file_name=f'{i}.jpg', width=99, height=99)
                    for i in (1, 2)],
            categories=[dict(id=i, name=name)
                        for i, name in enumerate(('cat', 'dog', 'owl'))],
            annotations=[dict(id=i, image_id=i, category_id=1, area=100,
                              bbox=[9, 9, 10, 10]) for i in (1, 2)])
        self.ann_file = self.write('own.json')
        self.dataset = dict(
            type='CocoDataset', data_root=str(folder), ann_file='own.json',
            test_mode=True, metainfo=dict(classes=('cat', 'owl')))

    def write(self, name: str) -> str:
        path = self.folder / name
        path.write_text(json.dumps(self.content))
        return str(path)


@pytest.fixture
def data(tmp_path):
    return Data(tmp_path / 'data')


def check(data, ann_file, kind='CocoMetric'):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter('always')
        check_evaluator('val_evaluator[0]', dict(type=kind, ann_file=ann_file),
                        check_coco_dataset('val', data.dataset))
    return ' '.join(str(w.message) for w in heard
                    if 'categories that are not' not in str(w.message))


def categories_reversed(content):
    content['categories'].reverse()


def image_gone(content):
    del content['images'][1], content['annotations'][1]


def xyxy(content):
    for a in content['annotations']:
        a['bbox'] = [49, 49, 89, 89]


@pytest.mark.parametrize('change, message', [
    (categories_reversed, 'other.json .*: owl, cat there, and cat, owl'),
    (image_gone, "1 of 2 images .* not in .*other.json, such as '2.jpg' with "
     'the id 2'),
    (xyxy, '2 of 2 boxes .* x1, y1, x2, y2'),
])
@pytest.mark.parametrize('kind', ['CocoMetric', 'ExpertAssignmentMetric'])
def test_annotations_of_something_else(data, change, message, kind):
    assert check(data, data.ann_file, kind) == ''
    change(data.content)
    ann_file = data.write('other.json')
    with pytest.raises(DataError, match=r'^val_evaluator\[0\]: .*' + message):
        check(data, ann_file, kind)


@pytest.mark.parametrize('change, message', [
    (lambda c: c['annotations'][0].update(id=0), 'id 0'),
    (lambda c: c['images'][0].update(file_name='a/7.jpg'), '1 of 2 images'),
    (lambda c: c['images'].append(dict(id=5)), '1 images that the dataloader'),
    (lambda c: c['images'][0].pop('height'), ''),
])
def test_what_is_worth_a_warning(data, change, message):
    change(data.content)
    found = check(data, data.write('other.json'))
    assert message in found and bool(message) == bool(found)


def test_an_annotation_without_a_number(data):
    data.content['annotations'][0]['id'] = 0
    assert 'id 0' in check(data, data.write('own.json'))


def image_of_text(content):
    content['images'][1]['id'] = content['annotations'][1]['image_id'] = 'b'


def category_of_text(content):
    content['categories'][0]['id'] = 'c'
    for a in content['annotations']:
        a['category_id'] = 'c'


@pytest.mark.parametrize('change, message', [
    (lambda c: c['annotations'][1].update(id='a50'), "annotation .* id 'a50'"),
    (image_of_text, "several types, such as 'b' and 1"),
    (category_of_text, "category with the id 'c': classwise=True needs"),
    (lambda c: c['annotations'][1].update(image_id='2'), "image_id '2', which"),
])
def test_ids_that_end_the_evaluation(data, change, message):
    change(data.content)
    metric = dict(type='CocoMetric', ann_file=data.write('own.json'),
                  classwise=True)
    with pytest.raises(DataError, match=message):
        check_evaluator('val_evaluator[0]', metric,
                        check_coco_dataset('val', data.dataset))


def config(data, evaluator, **other):
    """A loader of two data sets that have the same ids."""
    joined = dict(type='ConcatDataset', datasets=[
        data.dataset, dict(data.dataset, **other)])
    return Config(dict(model=dict(type='RetinaNet'), val_evaluator=evaluator,
                       val_dataloader=dict(dataset=joined)))


def test_joined_for_a_test(data):
    """A metric would take the images for the same, and count them twice."""
    metric = dict(type='CocoMetric', ann_file=data.ann_file)
    message = (r'datasets\.0 and .*datasets\.1 both .* id 1 \(1.jpg in .* and '
               '1.jpg in')
    for evaluator in (metric, [dict(type='CocoMetric')]):
        with pytest.raises(DataError, match=message):
            check_config(config(data, evaluator), ['val'])
    check_config(config(data, dict(
        type='MultiDatasetsEvaluator', dataset_prefixes=['a', 'b'],
        metrics=[metric, metric])), ['val'])
    check_config(config(data, dict(type='VOCMetric')), ['val'])


def test_joined_metrics_are_checked_on_their_own(data):
    metric = dict(type='CocoMetric', ann_file=data.ann_file)
    categories_reversed(data.content)
    other = dict(metric, ann_file=data.write('other.json'))
    with pytest.raises(DataError, match=r'val_evaluator\[1\]: .*other.json'):
        check_config(config(data, dict(
            type='MultiDatasetsEvaluator', dataset_prefixes=['a', 'b'],
            metrics=[metric, other])), ['val'])
