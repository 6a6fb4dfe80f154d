"""What the report notes about annotated objects."""
import numpy as np

from mmdet_moe.analysis.subjects.objects import crowded


def test_more_objects_than_detections_count():
    # image 0: 150 of class 0 and 50 of class 1; image 1: 100 of class 0.
    # 100 + 50 + 100 of 300 can be found.
    images, labels = np.repeat([0, 0, 1], (150, 50, 100)), np.repeat(
        [0, 1, 0], (150, 50, 100))
    note, = crowded(images, labels)
    assert note.startswith('1 images') and '150 at most' in note
    assert '83.3 %' in note
    assert crowded(images[50:], labels[50:]) == []
    assert crowded(images[:0], labels[:0]) == []
