import json

import numpy as np
import pytest

from mmdet_moe.analysis.training_log import find_logs, read_log
from mmdet_moe.files import DataError


def line(step, **values):
    return json.dumps(dict(step=step, **values)) + '\n'


def run(folder, name, text):
    path = folder / name / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def importance(step, a, b):
    return line(step, loss=1.0, **{
        'moe.head.cls.importance_0': a, 'moe.head.cls.importance_1': b})


def test_a_resumed_run_goes_on_where_it_was_cut_off(tmp_path):
    run(tmp_path, '20260101_0', importance(10, 0.5, 0.5) +
        importance(20, 0.9, 0.1) + importance(30, 0.5, 0.5)[:-20])
    run(tmp_path, '20260101_1', importance(20, 0.6, 0.4) +
        importance(30, 0.7, 0.3) +
        line(1, **{'moe/cls_expert1_small': 0.25, 'coco/bbox_mAP': 0.1}))
    log = read_log(find_logs(str(tmp_path / 'epoch_1.pth')))
    steps, values = log.importance['head.cls']
    assert steps.tolist() == [10, 20, 30]
    assert values[:, 0].tolist() == [0.5, 0.6, 0.7]
    epochs, sizes = log.sizes['cls']
    assert epochs.tolist() == [1] and sizes[0, 1, 0] == 0.25
    assert np.isnan(sizes[0, 1, 1])  # no medium object was there
    assert log.notes[0] == (
        '20260101_0/scalars.json: line 3 is cut off or broken, and left out.')
    assert '20260101_0, 20260101_1' in log.notes[1]


def test_a_run_that_began_anew_takes_the_place_of_the_old_one(tmp_path):
    run(tmp_path, '20260101_0', importance(10, 0.9, 0.1) +
        importance(20, 0.9, 0.1) + importance(30, 0.9, 0.1))
    run(tmp_path, '20260101_1', importance(10, 0.5, 0.5) +
        importance(20, 0.6, 0.4))
    log = read_log(find_logs(str(tmp_path / 'epoch_1.pth')))
    steps, values = log.importance['head.cls']
    assert steps.tolist() == [10, 20] and values[:, 0].tolist() == [0.5, 0.6]


def test_a_log_without_experts_is_told(tmp_path):
    path = run(tmp_path, 'a', line(1, loss=2.0))
    assert 'no importance of experts' in read_log([path]).notes[0]
    assert read_log([]).notes == []  # nothing was asked for
    with pytest.raises(DataError, match='none.json does not exist'):
        read_log([tmp_path / 'none.json'])
