import filecmp
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from mmdet_moe.datasets.shapes import CLASSES, DOMAINS, generate


@pytest.fixture(scope='module')
def big(tmp_path_factory):
    """200 pictures; sizes and classes can be counted."""
    root = generate(tmp_path_factory.mktemp('big') / 'shapes', 200, 1)
    return root, COCO(str(root / 'annotations' / 'instances_train.json'))


def test_pycocotools_agrees_with_the_annotations(big):
    root, coco = big
    for ann in list(coco.anns.values())[:200]:
        info = coco.imgs[ann['image_id']]
        x, y, w, h = ann['bbox']
        assert 0 <= x and x + w <= info['width']
        assert 0 <= y and y + h <= info['height']
        assert 0 < ann['area'] <= w * h
    picture = cv2.imread(str(root / 'train' / coco.imgs[0]['file_name']))
    assert picture.shape == (192, 256, 3)


def test_outlines_are_polygons_of_about_the_area(big):
    coco = big[1]
    # A ring's outline has no hole, an occluded one may be in pieces.
    whole = [
        a for a in coco.anns.values()
        if CLASSES[a['category_id'] - 1] != 'ring' and a['area'] > 2000
    ]
    ratios = [coco.annToMask(a).sum() / a['area'] for a in whole]
    assert len(ratios) > 50
    assert np.median(ratios) == pytest.approx(1, abs=0.05)


def test_size_does_not_give_the_class_away(big):
    anns = big[1].anns.values()
    counts = np.zeros((len(CLASSES), 3))
    for a in anns:
        counts[a['category_id'] - 1,
               np.digitize(a['area'], (32**2, 96**2))] += 1
    assert (counts >= 15).all()
    # Each size makes up about the same part of every class.
    share = counts / counts.sum(axis=1, keepdims=True)
    assert np.ptp(share, axis=0).max() < 0.15


def test_crowds_and_occlusion(big):
    coco = big[1]
    per_picture = np.array([len(coco.getAnnIds([i])) for i in coco.imgs])
    assert per_picture.max() >= 8 > 3 >= per_picture.min()
    # A whole disc fills pi/4 = 0.79 of its box; what covers one takes from
    # that. Discs that leave the picture are left out.
    filled = [
        a['area'] / (a['bbox'][2] * a['bbox'][3])
        for a in coco.anns.values() if a['category_id'] == 1
        and a['area'] > 300 and min(a['bbox'][:2]) > 0
        and a['bbox'][0] + a['bbox'][2] < 256
        and a['bbox'][1] + a['bbox'][3] < 192
    ]
    whole = np.isclose(filled, np.pi / 4, atol=0.06)
    assert 0.4 < whole.mean() < 0.95
    assert min(filled) > 0.15


def test_same_seed_same_files_and_more_pictures_only_add(tmp_path):
    roots = [
        generate(tmp_path / name, number, 1, seed=seed)
        for name, number, seed in (('a', 3, 1), ('b', 5, 1), ('c', 3, 2))
    ]
    first = ['train/000000.jpg', 'train/000002.jpg', 'val/000000.jpg']
    assert filecmp.cmpfiles(*roots[:2], first, shallow=False)[0] == first
    assert filecmp.cmpfiles(roots[0], roots[2], first, shallow=False)[1]
    a, b = (json.loads((r / 'annotations/instances_train.json').read_text())
            for r in roots[:2])
    assert b['annotations'][:len(a['annotations'])] == a['annotations']


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'mine.txt').write_text('precious')
    with pytest.raises(FileExistsError, match='is there already'):
        generate(tmp_path / 'data', 1, 1)
    with pytest.raises(ValueError, match='train=0: allowed is at least 1'):
        generate(tmp_path / 'new', 0, 1)
    assert [p.name for p in tmp_path.rglob('*')] == ['data', 'mine.txt']


def test_domains_change_the_camera_and_not_the_objects(tmp_path):
    plain, mixed = (
        generate(tmp_path / name, 6, 1, domains=domains)
        for name, domains in (('plain', False), ('mixed', True)))
    files = [json.loads((root / 'annotations' / 'instances_train.json'
                         ).read_text()) for root in (plain, mixed)]
    assert files[0]['annotations'] == files[1]['annotations']
    found = [image['domain'] for image in files[1]['images']]
    assert found == [*DOMAINS, 'day'] and 'domain' not in files[0]['images'][0]
    same = [filecmp.cmp(plain / 'train' / f'{i:06d}.jpg',
                        mixed / 'train' / f'{i:06d}.jpg', shallow=False)
            for i in range(6)]
    assert same == [domain == 'day' for domain in found]
