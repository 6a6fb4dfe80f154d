"""Images on a page are those that the detector is given."""
import json

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset

from mmdet_moe.analysis.subjects.loading import loaded_image


class LoadArray:
    """An image with any channels and values."""

    def __call__(self, results):
        return dict(results, img=np.load(results['img_path']))


def dataset(folder, file_name, *pipeline):
    ann_file = folder / 'own.json'
    ann_file.write_text(json.dumps(dict(
        images=[dict(id=1, file_name=file_name, height=2, width=3)],
        categories=[dict(id=1, name='cat')], annotations=[])))
    return CocoDataset(
        ann_file=str(ann_file), data_prefix=dict(img=str(folder)),
        metainfo=dict(classes=('cat', )), pipeline=list(pipeline),
        test_mode=True)


@pytest.mark.parametrize('pixel, dtype, shown', [
    ([1, 2, 3, 4, 5], np.uint8, [3, 2, 1]),  # the first three, as BGR
    ([1, 2], np.uint8, [2, 2, 1]),
    ([7], np.uint8, [7, 7, 7]),
    ([1, 2, 3], np.float32, [3, 2, 1]),
    # 0 of the other pixel is the least, 4095 the most
    ([0, 0, 4095], np.uint16, [255, 0, 0]),
    ([0, 0.5, 1], np.float32, [255, 128, 0]),
])
def test_channels_and_values(tmp_path, pixel, dtype, shown):
    image = np.zeros((2, 3, len(pixel)), dtype)
    image[0, 0] = pixel
    np.save(tmp_path / 'own.npy', image)
    found = loaded_image(dataset(
        tmp_path, 'own.npy', dict(type=LoadArray)), 0)
    assert found.shape == (2, 3, 3) and found.dtype == np.uint8
    assert found[0, 0].tolist() == shown and not found[1].any()


def test_the_first_steps_only(tmp_path):
    cv2.imwrite(str(tmp_path / 'own.png'),
                np.array([[[1, 2, 3]] * 3] * 2, np.uint8))
    found = loaded_image(dataset(
        tmp_path, 'own.png', dict(type='LoadImageFromFile'),
        dict(type='RandomFlip', prob=1.0), dict(type='Resize', scale=(9, 9))),
        0)
    assert found.shape == (2, 3, 3) and found[0, 0].tolist() == [3, 2, 1]


def test_a_pipeline_that_loads_nothing(tmp_path):
    with pytest.raises(ValueError, match='loads no image'):
        loaded_image(dataset(tmp_path, 'own.npy'), 0)
