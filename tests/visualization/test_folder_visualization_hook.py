"""Painted images: which file each is, and one that cannot be painted."""
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config

from mmdet_moe.datasets.palettes import complete_palettes
from mmdet_moe.files import ReportError
from mmdet_moe.visualization import FolderVisualizationHook


def test_painted_files_keep_their_folders(tmp_path):
    paths = [tmp_path / f'cam{i}' / 'frame.jpg' for i in range(3)]
    for path in paths:
        path.parent.mkdir()
        cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8))
    DetLocalVisualizer.get_instance('painted files')
    hook = FolderVisualizationHook(draw=True, test_out_dir='painted')
    runner = SimpleNamespace(
        work_dir=str(tmp_path), timestamp='now',
        test_dataloader=SimpleNamespace(dataset=Images(paths)))
    paths[1].write_bytes(b'no image')
    with pytest.warns(UserWarning, match='cam1/frame.jpg could not be'):
        for path in paths:
            hook.after_test_iter(runner, 0, {}, [
                DetDataSample(metainfo=dict(img_path=str(path)))])
    assert sorted((tmp_path / 'now' / 'painted').rglob('*.jpg')) == [
        tmp_path / 'now' / 'painted' / f'cam{i}' / 'frame.jpg' for i in (0, 2)]
    with pytest.raises(ReportError, match='1 images .*cam1/frame.jpg'):
        hook.after_test(runner)


class Images(list):

    def get_data_info(self, i):
        return dict(img_path=str(self[i]))


def test_more_classes_than_colours():
    names = tuple(f'class {i}' for i in range(90))
    cfg = Config(dict(test_dataloader=dict(dataset=dict(
        type='CocoDataset', metainfo=dict(classes=names)))))
    complete_palettes(cfg, ('test', 'val'))
    meta = cfg.test_dataloader.dataset.metainfo
    assert meta['classes'] == names and len(meta['palette']) == 90
    # COCO has 80 colours, and they begin again
    assert meta['palette'][80] == meta['palette'][0] == (220, 20, 60)
