"""Which objects and pictures are shown."""
import numpy as np
import pytest
from planted import records

from mmdet_moe.analysis.gallery import extremes, gallery


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
    shown = gallery(records(tmp_path), 3, score_thr=0.3, room=10**6)
    assert [p.name for p in shown] == ['0.jpg', '12.jpg', '23.jpg']
    assert shown[1].weights['moe'] == [[(0, 0.5), (1, 0.5)], [(1, 1.0)]]
    boxes = shown[2].boxes
    assert [b.experts['moe'][0] for b in boxes] == [0, 1]
    assert (boxes[0].x, boxes[0].width, boxes[0].size) == (10, 20, 'small')
    assert gallery(records(tmp_path), 0, score_thr=0.3, room=10**6) == []
    # a picture is less than 1 kB, its two boxes are counted as 2.4 kB
    assert len(gallery(records(tmp_path), 3, score_thr=0.3, room=5000)) == 1
