"""Which objects and pictures are shown."""
from base64 import b64decode
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from planted import decision, records

from mmdet_moe.analysis.gallery import extremes, gallery
from mmdet_moe.colours import EXPERT_COLOURS
from mmdet_moe.layers.scopes import PositionScope


def image(_, path):
    return cv2.imread(path)[..., ::-1]


def test_the_extremes_are_of_different_pictures(tmp_path):
    first, second = extremes(
        records(tmp_path), 'moe', np.random.default_rng(0), image)
    assert [crop.name for crop in first['most']] == [
        f'{i}.jpg' for i in range(23, 17, -1)]
    assert first['most'][0].weight == pytest.approx(23 / 24)
    # level 1 has weight 0 in all pictures: chance decides
    assert {crop.weight for crop in first['least']} == {0.0}
    assert len({crop.name for crop in first['least']}) == 6
    assert {crop.weight for crop in second['most']} == {1.0}


def test_the_gallery(tmp_path, monkeypatch):
    monkeypatch.setattr('mmdet_moe.analysis.gallery.SHORTEST', 1)
    shown = gallery(records(tmp_path, shown=(0, 12, 23)), score_thr=0.3,
                    image=image, room=10**6)
    assert [p.name for p in shown] == ['0.jpg', '12.jpg', '23.jpg']
    assert shown[1].weights['moe'] == [[(0, 0.5), (1, 0.5)], [(1, 1.0)]]
    boxes = shown[2].boxes
    assert [b.experts['moe'][0] for b in boxes] == [0, 1]
    assert (boxes[0].x, boxes[0].width) == (10, 20)
    assert boxes[0].groups == {
        'size': 'small', 'level': 'level 0', 'class': 'cell'}
    assert gallery(records(tmp_path), score_thr=0.3, image=image,
                   room=10**6) == []
    # a picture is less than 1 kB, its two boxes are counted as 2.4 kB
    assert len(gallery(records(tmp_path, shown=(0, 12, 23)), score_thr=0.3,
                       image=image, room=5000)) == 1


@pytest.mark.parametrize('flipped', [False, True])
def test_decisions_about_positions_are_painted(tmp_path, monkeypatch, flipped):
    monkeypatch.setattr('mmdet_moe.analysis.gallery.SHORTEST', 1)
    weights = torch.eye(3)[[0, 1, 1, 2, 1, 0]]

    def of_positions(_, logits):
        return replace(
            decision(weights, scope=PositionScope(), shapes=((1, 2, 3), )),
            # padded to the right; flipped from right to left
            extent=(40.0, -80.0 if flipped else 80.0),
            start=(0.0, 60.0 if flipped else 0.0))

    found = records(tmp_path, make=of_positions, shown=[0])
    shown = gallery(found, score_thr=0.3, image=image, room=10**6)[0]
    assert shown.weights == {}
    painted, = shown.maps['moe']
    assert (painted.width, painted.height) == (80, 40)
    assert (painted.x, painted.y) == (-20 if flipped else 0, 0)
    assert painted.parts == [(1, 0.5), (0, 1 / 3), (2, 1 / 6)]
    code = np.frombuffer(b64decode(painted.url.split(',')[1]), np.uint8)
    pixels = cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1]
    expected = [[EXPERT_COLOURS[e] for e in row]
                for row in ((0, 1, 1), (2, 1, 0))]
    if flipped:
        expected = [row[::-1] for row in expected]
    assert pixels.tolist() == np.array(expected).tolist()


def test_files_of_one_name_keep_their_folders(tmp_path):
    found = records(tmp_path, pictures=4, shown=(0, 3))
    for i, picture in enumerate(found.pictures):
        path = tmp_path / f'cam{i}' / 'frame.jpg'
        path.parent.mkdir()
        path.write_bytes((tmp_path / f'{i}.jpg').read_bytes())
        found.pictures[i] = replace(picture, path=str(path))
    shown = gallery(found, score_thr=0.3, image=image, room=10**6)
    assert [p.name for p in shown] == ['cam0/frame.jpg', 'cam3/frame.jpg']
    first, _ = extremes(found, 'moe', np.random.default_rng(0), image)
    assert first['most'][0].name == 'cam3/frame.jpg'


def pixels_of(url):
    code = np.frombuffer(b64decode(url.split(',')[1]), np.uint8)
    return cv2.imdecode(code, cv2.IMREAD_COLOR)


@pytest.mark.parametrize('box', [
    [500, 300, 520, 310], [-90, -90, -10, -10], [30, 25, 10, 5],
    [10, 5, 10, 5], [float('nan')] * 4, [0, 0, float('inf'), 9],
    [59.9, 39.9, 60, 40]])
def test_any_box_can_be_cut_out(tmp_path, box):
    found = records(tmp_path)
    found.labelled.box[:] = box
    crops = extremes(found, 'moe', np.random.default_rng(0), image)
    assert pixels_of(crops[0]['most'][0].url).shape[0] == 72


def test_a_strip_keeps_a_pixel(tmp_path):
    shown, = gallery(
        records(tmp_path, shown=(3, )), score_thr=0.3, room=10**6,
        image=lambda *_: np.zeros((1, 5000, 3), np.uint8))
    assert pixels_of(shown.url).shape == (1, 640, 3)
