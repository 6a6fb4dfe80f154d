"""Which decisions and objects are shown."""
import cv2
import numpy as np
import pytest

from mmdet_moe.analysis.embedding import embed
from mmdet_moe.analysis.gallery import extremes, gallery
from mmdet_moe.analysis.records import LayerRecord, Picture, Records, Things


def records(tmp_path, pictures=24, constant=False):
    """Two objects of one class per picture, one per level; picture i gives
    level 0 to expert 0 with weight i / pictures, level 1 to expert 1."""
    paths = []
    for i in range(pictures):
        paths.append(str(tmp_path / f'{i}.jpg'))
        cv2.imwrite(paths[-1], np.full((40, 60, 3), 5 * i, np.uint8))
    weights = np.zeros((pictures, 2, 1, 2))
    weights[:, 0, 0, 0] = np.arange(pictures) / pictures
    weights[:, 0, 0, 1] = 1 - weights[:, 0, 0, 0]
    weights[:, 1, 0, 1] = 1
    logits = np.ones_like(weights) if constant else weights * 9
    n = 2 * pictures
    objects = Things(
        picture=np.repeat(np.arange(pictures), 2),
        box=np.tile([10., 5, 30, 25], (n, 1)),
        label=np.zeros(n, int),
        area=np.full(n, 400.0),
        level=np.tile([0, 1], pictures),
        score=np.ones(n),
        true=np.ones(n, bool),
        patch=dict(moe=np.zeros((n, 2), int)))
    return Records(
        pictures=[Picture(i, p, 40, 60) for i, p in enumerate(paths)],
        classes=['cell'], supercategories=None, levels=2,
        layers=dict(moe=LayerRecord(weights, logits, 1, 2, True)),
        objects=objects, detections=objects[:0], ap=None, interventions={})


def test_the_extremes_are_of_different_pictures(tmp_path):
    first, second = extremes(
        records(tmp_path), 'moe', np.random.default_rng(0))
    assert [crop.name for crop in first['most']] == [
        f'{i}.jpg' for i in range(23, 17, -1)]
    assert first['most'][0].weight == pytest.approx(23 / 24)
    # level 1 has weight 0 in all pictures: chance decides
    assert {crop.weight for crop in first['least']} == {0.0}
    assert len({crop.name for crop in first['least']}) == 6
    assert {crop.weight for crop in second['most']} == {1.0}


def test_the_gallery(tmp_path):
    shown = gallery(records(tmp_path), 3, 0.3)
    assert [p.name for p in shown] == ['0.jpg', '12.jpg', '23.jpg']
    assert shown[1].weights['moe'] == [[(0, 0.5), (1, 0.5)], [(1, 1.0)]]
    boxes = shown[2].boxes
    assert [b.experts['moe'][0] for b in boxes] == [0, 1]
    assert (boxes[0].x, boxes[0].width, boxes[0].size) == (10, 20, 'small')
    assert gallery(records(tmp_path), 0, 0.3) == []


@pytest.mark.parametrize('method', ['tsne', 'pca'])
def test_levels_are_apart_in_the_embedding(tmp_path, method):
    embedding = embed(records(tmp_path), 'moe', method=method)
    group, names = embedding.groups['level']
    assert len(embedding.points) == 48 and names == ['level 0', 'level 1']
    assert np.isfinite(embedding.points).all()
    spread = embedding.points[group == 1].std(axis=0).max()
    assert spread < embedding.points[group == 0].std(axis=0).max()


def test_nothing_to_embed(tmp_path):
    assert embed(records(tmp_path, constant=True), 'moe') is None
    assert embed(records(tmp_path, pictures=4), 'moe') is None
