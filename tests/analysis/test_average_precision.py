import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_moe.analysis.metric import of_pictures
from mmdet_moe.analysis.parts import join
from mmdet_moe.analysis.subjects.average_precision import (
    METRICS,
    AveragePrecision,
)


def dataset(pictures=12, seed=0, first_id=1):
    """Objects of all sizes; detections near them, beside them, and missing."""
    rng = np.random.default_rng(seed)
    images, annotations, detections = [], [], []
    for i in range(pictures):
        images.append(dict(id=10 * i + 3, width=300, height=300))
        found = []
        for _ in range(rng.integers(0, 6)):
            x, y = rng.uniform(0, 150, 2)
            w, h = rng.choice([15, 60, 140], 2) + rng.uniform(0, 9, 2)
            category = int(rng.integers(1, 3))
            annotations.append(
                dict(id=first_id + len(annotations), image_id=10 * i + 3,
                     category_id=category, bbox=[x, y, w, h], area=w * h,
                     iscrowd=int(rng.random() < 0.1)))
            for shift in rng.choice([0.5, 4, 40], rng.integers(0, 3)):
                dx, dy = shift * rng.standard_normal(2)
                found.append([x + dx, y + dy, x + w + dx, y + h, category - 1,
                              rng.random()])
        rows = np.array(found).reshape(-1, 6)
        detections.append(dict(bboxes=rows[:, :4], labels=rows[:, 4].astype(
            int), scores=rows[:, 5]))
    # 'none' has no object
    categories = [dict(id=i + 1, name=n) for i, n in enumerate(
        ('a', 'b', 'none'))]
    return dict(images=images, annotations=annotations,
                categories=categories), detections


def coco_of(content, tmp_path):
    path = tmp_path / 'annotations.json'
    path.write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def reference(coco, img_ids, detections):
    """The six metrics by COCOeval itself."""
    results = [
        dict(image_id=i, category_id=int(c) + 1, score=float(s),
             bbox=[b[0], b[1], b[2] - b[0], b[3] - b[1]])
        for i, found in zip(img_ids, detections) for b, c, s in zip(
            found['bboxes'].tolist(), found['labels'], found['scores'])
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(coco, coco.loadRes(results), 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6]


def ap_of(coco, img_ids, detections, domains=()):
    about = coco, [1, 2, 3], img_ids
    ap = AveragePrecision(*about)
    matched = (ap.match(*one)[1] for one in zip(img_ids, detections))
    return AveragePrecision(*about, join(matched), domains)


@pytest.mark.parametrize('seed', range(4))
def test_it_is_coco_s(tmp_path, seed):
    # COCOeval does not see that the object with the id 0 is found
    content, detections = dataset(seed=seed, first_id=seed % 2)
    coco = coco_of(content, tmp_path)
    img_ids = [i['id'] for i in content['images']]
    # the order in which pictures come does not matter
    order = np.random.default_rng(seed).permutation(len(img_ids))
    ap = ap_of(coco, [img_ids[i] for i in order],
               [detections[i] for i in order])
    metrics = of_pictures(ap, len(img_ids))
    assert list(metrics.values()) == pytest.approx(
        reference(coco, img_ids, detections).tolist(), abs=1e-12)
    assert set(metrics) == set(METRICS)
    # by class it is that of data with this class only
    own = ap.values(np.ones((1, len(img_ids)), int)).by_group['class'][:, 0]
    for c in (0, 1):
        alone = coco_of(dict(content, annotations=[
            a for a in content['annotations'] if a['category_id'] == c + 1]),
            tmp_path)
        expected = reference(alone, img_ids, detections)[0]
        assert own[c] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(own[2])
    assert 'domain' not in ap.values(np.ones((1, len(img_ids)), int)).by_group


def test_ap_by_domain_is_that_of_its_images_alone(tmp_path):
    content, detections = dataset(seed=0, first_id=1)
    coco = coco_of(content, tmp_path)
    img_ids = [i['id'] for i in content['images']]
    names = [('night', 'day', None)[i % 3] for i in range(len(img_ids))]
    ap = ap_of(coco, img_ids, detections, names)
    own = ap.values(np.ones((1, len(img_ids)), int)).by_group['domain'][:, 0]
    for name, found in zip(('day', 'night'), own):  # sorted
        mine = [i for i, domain in enumerate(names) if domain == name]
        images = [img_ids[i] for i in mine]
        alone = coco_of(dict(
            content,
            images=[i for i in content['images'] if i['id'] in images],
            annotations=[a for a in content['annotations']
                         if a['image_id'] in images]), tmp_path)
        assert found == pytest.approx(reference(
            alone, images, [detections[i] for i in mine])[0], abs=1e-12)


def test_a_resample_is_a_dataset_with_pictures_repeated(tmp_path):
    content, detections = dataset()
    img_ids = [i['id'] for i in content['images']]
    counts = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12))
    ap = ap_of(coco_of(content, tmp_path), img_ids, detections)
    resampled = ap.values(counts[None]).overall
    repeated = dict(content, images=[], annotations=[])
    found = []
    for i, times in enumerate(counts):
        for _ in range(times):
            number = len(repeated['images']) + 1
            repeated['images'].append(dict(content['images'][i], id=number))
            repeated['annotations'] += [
                dict(a, image_id=number,
                     id=len(repeated['annotations']) + 1 + k)
                for k, a in enumerate(
                    a for a in content['annotations']
                    if a['image_id'] == img_ids[i])
            ]
            found.append(detections[i])
    expected = reference(
        coco_of(repeated, tmp_path), range(1, len(found) + 1), found)
    assert np.concatenate(list(resampled.values())) == pytest.approx(
        expected, abs=1e-12)


def test_true_positives(tmp_path):
    content = dict(
        images=[dict(id=1, width=99, height=99)],
        annotations=[
            dict(id=1, image_id=1, category_id=1, bbox=[0, 0, 10, 10],
                 area=100, iscrowd=0)
        ],
        categories=[dict(id=1, name='a'), dict(id=2, name='b'),
                    dict(id=3, name='c')])
    found = dict(
        bboxes=np.array([[50., 50, 60, 60], [0, 0, 10, 9], [0, 0, 10, 10],
                         [0, 0, 10, 10]]),
        scores=np.array([0.9, 0.8, 0.7, 0.6]),
        labels=np.array([0, 0, 0, 1]))
    about = coco_of(content, tmp_path), [1, 2, 3], [1]
    # of two that match, the better score takes the object; class b has none
    true, matched = AveragePrecision(*about).match(1, found)
    assert true.tolist() == [False, True, False, False]
    metrics = of_pictures(AveragePrecision(*about, matched), 1)
    assert metrics['AP50'] == pytest.approx(0.5)  # second of the ranking
    assert np.isnan(metrics['AP_L'])


def test_nothing_detected_and_nothing_there(tmp_path):
    content, _ = dataset()
    img_ids = [i['id'] for i in content['images']]
    nothing = [dict(bboxes=np.zeros((0, 4)), scores=np.zeros(0),
                    labels=np.zeros(0, int))] * len(img_ids)
    coco = coco_of(content, tmp_path)
    assert of_pictures(
        ap_of(coco, img_ids, nothing), len(img_ids))['AP'] == 0
    empty = coco_of(dict(content, annotations=[]), tmp_path)
    assert np.isnan(of_pictures(
        ap_of(empty, img_ids, nothing), len(img_ids))['AP'])


def test_no_more_are_correct_than_are_labelled(tmp_path):
    """AP counts objects with ignore=1, COCOeval's own way; the tables leave
    them out, and so are detections of them."""
    content, detections = dataset(seed=2, first_id=1)
    plain = ap_of(coco_of(content, tmp_path), [
        i['id'] for i in content['images']], detections)
    for a in content['annotations']:
        a['ignore'] = 1
    coco = coco_of(content, tmp_path)
    img_ids = [i['id'] for i in content['images']]
    ignored = ap_of(coco, img_ids, detections)
    counts = np.ones((1, len(img_ids)), int)
    assert ignored.values(counts).overall['AP'] == plain.values(
        counts).overall['AP'] > 0
    for img_id, found in zip(img_ids, detections):
        assert not ignored.match(img_id, found)[0].any()
