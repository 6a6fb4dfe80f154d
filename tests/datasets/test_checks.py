import json
import shutil
import tempfile
import warnings
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from PIL import Image

from mmdet_moe.datasets.checks import check_coco_dataset
from mmdet_moe.datasets.shapes import generate
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


def check(dataset, message, **options):
    with pytest.raises(DataError, match=message):
        check_coco_dataset('val_dataloader.dataset', dataset, **options)


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
    check(dataset, 'val.json has no object to train on.* disc, ring',
          trains=True)
    filtered = dict(dataset, filter_cfg=dict(filter_empty_gt=True))
    check(filtered, 'has no object to train on, and filter_cfg')
    check_coco_dataset('val', dict(filtered, test_mode=True))


def test_some_data_without_objects_may_be_joined(dataset):
    """As those of SoftTeacher."""
    edit(dataset, lambda c: c['annotations'].clear())
    labelled = dict(dataset, ann_file='annotations/instances_train.json',
                    data_prefix=dict(img='train/'))
    check_coco_dataset('train', dict(
        type='ConcatDataset', datasets=[dataset, labelled]), trains=True)
    check(dict(labelled, filter_cfg=dict(min_size=200)),
          'has no object to train on', trains=True)


def ring_first(content):
    content['categories'].reverse()


def tilted(content):
    for image in content['images']:
        image['width'], image['height'] = image['height'], image['width']


def halved(content):
    content['images'][3].update(width=128, height=96)


def corners(content):
    for a in content['annotations']:
        x, y, w, h = a['bbox']
        a['bbox'] = [x, y, x + w, y + h]


def normalised(content):
    for a in content['annotations']:
        x, y, w, h = a['bbox']
        a['bbox'] = [x / 256, y / 192, w / 256, h / 192]


def outside(content):
    for a in content['annotations']:
        a['bbox'][0] += 300


@pytest.mark.parametrize('change, message', [
    (ring_first, 'another order than metainfo.classes.* ring, disc there, and '
     'disc, ring in the config'),
    (lambda c: c['categories'].append(dict(id=9, name='ring')),
     "several categories of the name 'ring'"),
    (lambda c: c['images'][0].update(height=0), "sound 'height': 0"),
    (tilted, '000000.jpg is 256 x 192 .* says 192 x 256; so do 7 more of 8'),
    (halved, '000003.jpg is 256 x 192 .* says 128 x 96'),
    (corners, 'are they x1, y1, x2, y2'),
    (normalised, 'at most 1: are they normalised'),
])
def test_data_that_would_be_read_as_something_else(dataset, change, message):
    dataset['pipeline'] = [dict(type='LoadImageFromFile')]
    edit(dataset, change)
    check(dataset, message)


@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp', 'tiff'])
@pytest.mark.parametrize('flag', ['color', 'color_ignore_orientation'])
def test_photos_that_are_turned(dataset, kind, flag):
    """Decoders turn some formats; what counts is the size that is loaded."""
    step = dict(type='mmdet.LoadImageFromFile', color_type=flag)
    dataset['pipeline'] = [step]
    root = Path(dataset['data_root'], 'val')
    photo = root / f'photo.{kind}'
    image = Image.open(root / '000002.jpg')
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(photo, exif=exif)
    height, width = mmcv.imread(str(photo), flag=flag).shape[:2]
    assert (width, height) in ((256, 192), (192, 256))
    edit(dataset, lambda c: c['images'][2].update(
        file_name=photo.name, width=width, height=height))
    check_coco_dataset('val', dataset)
    edit(dataset, lambda c: c['images'][2].update(width=height, height=width))
    check(dataset, f'is {width} x {height} .*orientation is 6.* says '
          f'{height} x {width}')
    # What loads its images in another way knows their sizes itself.
    check_coco_dataset('val', dict(dataset, pipeline=[dict(type='LoadMine')]))


def test_sizes_that_are_rounded(dataset):
    dataset['pipeline'] = [dict(type='LoadImageFromFile')]
    edit(dataset, lambda c: c['images'][0].update(width=257, height=191))
    check_coco_dataset('val', dataset)


def test_panoptic_data_pass(dataset):
    """Their annotations have segments, and no boxes."""
    edit(dataset, lambda c: c.update(annotations=[
        dict(image_id=0, file_name='0.png', segments_info=[])]))
    check_coco_dataset('val', dict(dataset, type='CocoPanopticDataset'))


@pytest.mark.parametrize('change, said', [
    (lambda a: a.update(ignore=1), '20 with ignore=1'),
    (lambda a: a.update(area=0), '20 with no area'),
    (lambda a: a['bbox'].__setitem__(2, -5), '20 with a width or height'),
    (lambda a: a['bbox'].__setitem__(0, 500.), '20 outside of the image'),
])
def test_objects_that_are_left_out_are_counted(dataset, change, said):
    def some(content):
        mine = [a for a in content['annotations'] if a['category_id'] in (1, 5)]
        for a in mine[:20]:
            change(a)
    dataset['metainfo'] = dict(classes=('disc', 'ring'))
    edit(dataset, lambda c: c['annotations'].extend(
        dict(c['annotations'][0], category_id=1, id=1000 + i)
        for i in range(20)))
    edit(dataset, some)
    with pytest.warns(UserWarning, match=f'20 of .* objects are left.*{said}'):
        check_coco_dataset('val', dataset)


def test_nothing_is_left_to_train_on(dataset):
    edit(dataset, outside)
    check(dataset, 'no object to train on.* outside of the image', trains=True)


def test_generated_annotations_begin_at_1():
    assert min(a['id'] for a in draw(8)['annotations']) == 1


def draw(number):
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / 'own', 1, number)
        path = Path(folder, 'own/annotations/instances_val.json')
        return json.loads(path.read_text())


def test_images_of_sixteen_bits(dataset):
    dataset['pipeline'] = [dict(type='LoadImageFromFile')]
    edit(dataset, lambda c: c['images'][0].update(file_name='deep.png'))
    for most, shape, said in ((4095, (192, 256), 15), (65535, (192, 256), None),
                              (4095, (192, 256, 3), 15)):
        deep = np.full(shape, most, np.uint16)
        cv2.imwrite(f'{dataset["data_root"]}/val/deep.png', deep)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter('always')
            check_coco_dataset('val', dataset)
        found = [str(w.message) for w in heard if '16 bits' in str(w.message)]
        assert len(found) == (said is not None)
        assert said is None or f'up to {said} of 255' in found[0]


def test_a_broken_link_that_nothing_names(dataset):
    folder = Path(dataset['data_root'], 'val')
    (folder / 'other.jpg').symlink_to(folder / 'gone.jpg')
    check_coco_dataset('val', dataset)


@pytest.mark.parametrize('name', ['../elsewhere.png', '{}/elsewhere.png'])
def test_images_from_elsewhere(dataset, tmp_path, name):
    """A report would show them."""
    folder = tmp_path / 'shapes'
    image = next((folder / 'val').iterdir())
    shutil.copy(image, folder / 'elsewhere.png')
    edit(dataset, lambda c: c['images'][0].update(
        file_name=name.format(folder)))
    with pytest.warns(UserWarning, match='1 of the 8 images.*elsewhere.png'):
        check_coco_dataset('val', dataset)


def test_empty_picture(dataset):
    open(f'{dataset["data_root"]}/val/000001.jpg', 'w').close()
    check(dataset, 'empty files in .*: 000001.jpg')
