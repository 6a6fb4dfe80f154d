import json
import shutil

import pytest

from mmdet_moe.datasets.checks import check_coco_dataset
from mmdet_moe.files import DataError


@pytest.fixture
def dataset(shapes, tmp_path):
    shutil.copytree(shapes, tmp_path / 'shapes')
    return dict(
        type='CocoDataset',
        data_root=str(tmp_path / 'shapes'),
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        metainfo=dict(classes=('disc', 'ring')))


def edit(dataset, change):
    path = f'{dataset["data_root"]}/{dataset["ann_file"]}'
    with open(path) as f:
        content = json.load(f)
    change(content)
    with open(path, 'w') as f:
        json.dump(content, f)


def check(dataset, message):
    with pytest.raises(DataError, match=message):
        check_coco_dataset('val_dataloader.dataset', dataset)


def test_sound_data_passes(dataset):
    check_coco_dataset('train', dataset)
    check_coco_dataset('train', dict(type='RepeatDataset', dataset=dataset))
    check_coco_dataset('train', dict(type='LVISDataset', ann_file='elsewhere'))
    with pytest.raises(DataError, match='gone.json does not exist'):
        check_coco_dataset('train', {
            **dataset, 'type': 'DomainCocoDataset', 'ann_file': 'gone.json'})


def test_what_need_not_be_there(dataset):
    """Objects of a test set; files that MMEngine has from elsewhere."""
    edit(dataset, lambda c: c.pop('annotations'))
    check_coco_dataset('test', dict(dataset, test_mode=True))
    check(dataset, "no list 'annotations'")
    check_coco_dataset('train', dict(
        dataset, data_root='nowhere/', backend_args=dict(backend='petrel')))
    joined = dict(type='ConcatDataset', datasets=[
        dict(dataset, test_mode=True), dict(dataset, data_root='nowhere/')])
    check(joined, r'val_dataloader.dataset.datasets.1: nowhere')


def test_missing_folder_and_files(dataset):
    check({**dataset, 'data_root': 'nowhere/'},
          'val_dataloader.dataset: nowhere/annotations/instances_val.json '
          'does not exist.* Expected are .* and nowhere/val/')
    check({**dataset, 'data_prefix': dict(img='images/')},
          'images does not exist; it should be the folder')


def test_broken_json(dataset):
    path = f'{dataset["data_root"]}/{dataset["ann_file"]}'
    with open(path) as f:
        half = f.read(1000)
    with open(path, 'w') as f:
        f.write(half)
    check(dataset, 'instances_val.json is not valid JSON')


@pytest.mark.parametrize('change, message', [
    (lambda c: c['images'].clear(), 'has no pictures in it'),
    (lambda c: c.pop('categories'), "has no list 'categories'"),
    (lambda c: c['annotations'][3].pop('bbox'), r"\[3\].*'bbox': None"),
    (lambda c: c['annotations'][3].update(bbox=[1, 2]), r"'bbox': \[1, 2\]"),
    (lambda c: c['annotations'][3].update(image_id=-5), 'image_id -5'),
    (lambda c: c['categories'].pop(0), 'category_id 1'),
    (lambda c: c['annotations'].insert(0, 'nothing'), r"\[0\].*'nothing'"),
    (lambda c: c['annotations'][1].update(area=None), "'area': None"),
    (lambda c: c['images'][1].update(id=c['images'][0]['id']), 'id 0 .*twice'),
    (lambda c: c['images'][2].update(file_name=None), "'file_name': None"),
    (lambda c: c['images'][2].update(file_name='x.jpg'),
     '1 of the 8 pictures .* missing in .*: x.jpg'),
])
def test_broken_content(dataset, change, message):
    edit(dataset, change)
    check(dataset, message)


def test_class_that_the_file_does_not_have(dataset):
    check({**dataset, 'metainfo': dict(classes=('zebra', ))},
          "class 'zebra' .* which has disc, square")


def test_coco_s_own_classes_are_the_default(dataset):
    del dataset['metainfo']
    check(dataset, "class 'person' .* which has disc")


def test_nothing_to_train_on(dataset):
    edit(dataset, lambda c: c['annotations'].clear())
    check_coco_dataset('val_dataloader.dataset', dataset)
    check({**dataset, 'filter_cfg': dict(filter_empty_gt=True)},
          'no object of the classes disc, ring')


def test_empty_picture(dataset):
    open(f'{dataset["data_root"]}/val/000001.jpg', 'w').close()
    check(dataset, 'empty files in .*: 000001.jpg')
