"""Where on a map a box is, by hand."""
import numpy as np
import torch

from mmdet_moe.analysis.objects import patches
from mmdet_moe.layers import MapDecision


def test_the_patch_of_a_centre():
    meta = dict(batch_input_shape=(40, 100), img_shape=(40, 90),
                scale_factor=(2.0, 2.0))
    large, small = (MapDecision(torch.zeros(1, 3, 3, 1),
                                torch.zeros(1, 3, 3, 1), h, w)
                    for h, w in ((4, 5), (2, 1)))
    boxes = np.array([
        [0, 0, 18, 8],  # centre (18, 8) of 100 x 40: column 0, row 0
        [0, 8, 24, 14],  # (24, 22): column 1, row 2
        [40, 10, 60, 30],  # (100, 40), the corner: column 4, row 3
    ])
    # rows start at 0 1 2, columns at 0 1 3; with two rows at 0 0 1
    assert patches(boxes, meta, [large, small], 3).tolist() == [
        [0, 5], [7, 8], [8, 8]]
