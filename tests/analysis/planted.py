"""Records whose answers are known."""
import cv2
import numpy as np

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
        layers=dict(moe=LayerRecord(
            weights, logits, np.ones_like(weights[..., 0], bool), 1, 2)),
        objects=objects, detections=objects[:0], ap=None, interventions={})
