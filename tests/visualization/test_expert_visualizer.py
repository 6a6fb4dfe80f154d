import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

from mmdet_moe.colours import EXPERT_COLOURS
from mmdet_moe.visualization import ExpertVisualizer


def sample(**weights):
    """Two boxes; they are led by expert 1 and by expert 9."""
    result = DetDataSample()
    result.pred_instances = InstanceData(
        bboxes=torch.tensor([[20., 20, 80, 60], [20, 120, 80, 180]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.9, 0.8]),
        **weights)
    return result


def draw(visualizer, data_sample):
    visualizer.dataset_meta = dict(classes=('cat', 'dog'),
                                   palette=[(255, 0, 0), (0, 255, 0)])
    visualizer.add_datasample('x', np.full((200, 100, 3), 255, np.uint8),
                              data_sample, draw_gt=False)
    return visualizer.get_image()


def edge(picture, y):
    """Colour of the lower edge of a box: it has no text there."""
    return picture[y - 3:y + 4, 50].min(axis=0)


def test_boxes_have_the_colour_of_their_leading_expert():
    weights = torch.zeros(2, 10)
    weights[0, 1], weights[0, 4], weights[1, 9] = 0.7, 0.3, 1.0
    picture = draw(ExpertVisualizer(layer='reg', alpha=1.0),
                   sample(**{'reg.expert_weights': weights,
                             'cls.expert_weights': weights[:, :2]}))
    for y in (60, 180):  # expert 9 has the colour of expert 1
        assert np.abs(edge(picture, y).astype(int) -
                      EXPERT_COLOURS[1]).max() < 12


def test_what_has_no_experts_is_drawn_as_ever():
    picture = draw(ExpertVisualizer(alpha=1.0), sample())
    assert np.abs(edge(picture, 60).astype(int) - (255, 0, 0)).max() < 12


def test_a_detection_that_the_layer_took_no_part_in_is_white():
    weights = torch.tensor([[0.0, 1], [torch.nan, torch.nan]])
    picture = draw(ExpertVisualizer(alpha=1.0),
                   sample(**{'cls.expert_weights': weights}))
    assert np.abs(edge(picture, 60).astype(int) - EXPERT_COLOURS[1]).max() < 12
    assert edge(picture, 180).min() > 240


def test_a_layer_that_is_not_there():
    with pytest.raises(ValueError, match="layer=.cls.: allowed is .*.reg."):
        draw(ExpertVisualizer(layer='cls'),
             sample(**{'reg.expert_weights': torch.ones(2, 1)}))
