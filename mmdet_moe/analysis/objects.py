"""Objects and detections of a picture as arrays, and where on a map they are.

Boxes are x1, y1, x2, y2 in pixels of the original picture.
"""
from typing import Dict, Sequence, Tuple

import numpy as np
from mmdet.structures.bbox import get_box_tensor
from pycocotools.coco import COCO

from mmdet_moe.layers import MapDecision, patch_starts


def annotated(coco: COCO, cat_ids: Sequence[int],
              img_id: int) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The annotated objects that CocoDataset has for a picture.

    Args:
        coco: The annotations.
        cat_ids: COCO's category of each label.
        img_id: Of the picture.

    Returns:
        Boxes (n, 4), labels (n,), areas in pixels (n,).
    """
    label = {c: n for n, c in enumerate(cat_ids)}
    image = coco.imgs[img_id]
    rows = []
    for a in coco.imgToAnns[img_id]:
        x, y, w, h = a['bbox']
        inside = (min(x + w, image['width']) > max(x, 0)
                  and min(y + h, image['height']) > max(y, 0))
        if (a['category_id'] in label and inside and a['area'] > 0
                and min(w, h) >= 1 and not a.get('iscrowd')
                and not a.get('ignore')):
            rows.append(
                (x, y, x + w, y + h, label[a['category_id']], a['area']))
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return table[:, :4], table[:, 4].astype(int), table[:, 5]


def detected(sample) -> Dict[str, np.ndarray]:
    """The detections of a data sample.

    Returns:
        ``bboxes`` (n, 4), ``scores``, ``labels`` and ``levels`` (n,); a level
        is -1 if the head does not tell it.
    """
    found = sample.pred_instances
    levels = found.get('level_ids')
    return dict(
        bboxes=get_box_tensor(found.bboxes).cpu().numpy().astype(float),
        scores=found.scores.cpu().numpy().astype(float),
        labels=found.labels.cpu().numpy(),
        levels=np.full(len(found), -1)
        if levels is None else levels.cpu().numpy())


def patches(boxes: np.ndarray, meta: dict, maps: Sequence[MapDecision],
            grid: int) -> np.ndarray:
    """Which patch of each map the centres of boxes lie in.

    Args:
        boxes: (n, 4)
        meta: Of the picture: its sizes and scale.
        maps: L of them.
        grid: G, rows and columns of patches.

    Returns:
        (n, L) int, row by row out of G * G.
    """
    height, width = meta.get('batch_input_shape', meta['img_shape'][:2])
    scale = np.array(meta.get('scale_factor', (1.0, 1.0)))
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 * scale
    x, y = np.clip(centre / (width, height), 0, 1 - 1e-9).T
    return np.stack([
        _patch(y, m.height, grid) * grid + _patch(x, m.width, grid)
        for m in maps
    ], axis=1).astype(np.int16)


def _patch(position: np.ndarray, length: int, grid: int) -> np.ndarray:
    """Where along a side of a map of some length: 0 <= position < 1."""
    starts = patch_starts(length, grid).numpy()
    return np.searchsorted(
        starts, (position * length).astype(int), side='right') - 1
