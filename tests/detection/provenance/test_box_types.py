"""Boxes that are not horizontal: a type of five numbers, registered here as
another library registers its own; and MMRotate's detectors, where it is."""
import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectors import small
from mmdet.models.dense_heads import FCOSHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import (
    BaseBoxes,
    HorizontalBoxes,
    register_box,
    register_box_converter,
)
from mmdet.structures.bbox.box_type import box_types
from mmengine.structures import InstanceData

from mmdet_moe.analysis.subjects.objects import has_rotated_boxes
from mmdet_moe.conversion.compare import compare
from mmdet_moe.detection.boxes import areas, enclosing, in_input, overlaps
from mmdet_moe.detection.provenance import Undecided, matching_detections
from mmdet_moe.evaluation.objects import detections_of
from mmdet_moe.layers import upcycle
from mmdet_moe.visualization import ExpertVisualizer

try:
    import mmrotate
except ImportError:
    mmrotate = None


class FiveNumbers(BaseBoxes):
    """Centre, width, height and angle in radians."""
    box_dim = 5

    @property
    def centers(self):
        return self.tensor[..., :2]

    @property
    def areas(self):
        return self.tensor[..., 2] * self.tensor[..., 3]

    def rescale_(self, scale_factor):
        x, y = scale_factor
        self.tensor[..., :4] *= self.tensor.new_tensor([x, y, x, y])

    def _unused(self, *args, **kwargs):
        raise NotImplementedError

    widths = heights = flip_ = translate_ = clip_ = rotate_ = _unused
    project_ = resize_ = is_inside = find_inside_points = _unused
    overlaps = from_instance_masks = staticmethod(_unused)


def around(boxes):
    x, y, w, h, angle = boxes.unbind(-1)
    cos, sin = angle.cos().abs(), angle.sin().abs()
    half_w, half_h = (w * cos + h * sin) / 2, (w * sin + h * cos) / 2
    return torch.stack((x - half_w, y - half_h, x + half_w, y + half_h), -1)


def upright(boxes):
    low, high = boxes.split(2, dim=-1)
    return torch.cat(((low + high) / 2, high - low, 0 * low[..., :1]), -1)


@pytest.fixture
def five():
    """The type, registered for one test; or that of MMRotate."""
    from mmdet.structures.bbox.box_type import (
        _box_type_to_name,
        box_converters,
    )
    before = [dict(x) for x in (box_types, _box_type_to_name, box_converters)]
    if not any(t.box_dim == 5 for t in box_types.values()):
        register_box('five', FiveNumbers)
        register_box_converter('five', 'hbox', around)
        register_box_converter('hbox', 'five', upright)
    yield
    for registered, old in zip(
            (box_types, _box_type_to_name, box_converters), before):
        registered.clear()
        registered.update(old)


DIAMOND = torch.tensor([[10., 20, 2, 2, math.pi / 4]])  # a square on a corner


def test_a_box_is_what_its_type_says(five):
    half = math.sqrt(2)
    torch.testing.assert_close(
        enclosing(DIAMOND),
        torch.tensor([[10 - half, 20 - half, 10 + half, 20 + half]]))
    assert areas(DIAMOND).tolist() == [4]
    seen = in_input(DIAMOND, dict(scale_factor=(2., 2.))).tensor
    torch.testing.assert_close(
        seen, torch.tensor([[20., 40, 4, 4, math.pi / 4]]))
    # The same square upright: they share a regular octagon, 8 (sqrt(2) - 1),
    # of 4 + 4. The horizontal box around the diamond would give 4 / 8.
    octagon = 8 * (math.sqrt(2) - 1)
    upright = torch.tensor([[9., 19, 11, 21]])
    torch.testing.assert_close(
        overlaps(upright, DIAMOND),
        torch.tensor([[octagon / (8 - octagon)]]), rtol=1e-4, atol=1e-4)


def test_a_match_is_by_the_boxes_themselves(five):
    # Two thin boxes that cross have the same box around them, and an overlap
    # of 4 / (40 + 40 - 4).
    cross = torch.tensor([[30., 30, 20, 2, math.pi / 4],
                          [30., 30, 20, 2, -math.pi / 4]])
    objects = InstanceData(bboxes=cross, labels=torch.zeros(2).long())
    found = InstanceData(bboxes=cross.flip(0), labels=torch.zeros(2).long(),
                         scores=torch.tensor([.9, .8]))
    assert matching_detections(objects, found).tolist() == [1, 0]
    sample = dict(pred_instances=found)
    assert detections_of(sample).areas.tolist() == [40, 40]
    assert detections_of(sample).boxes.shape == (2, 4)


def test_painting_and_the_report_say_horizontal(five):
    found = InstanceData(bboxes=DIAMOND, labels=torch.tensor([0]),
                         scores=torch.tensor([.9]))
    found.set_field(torch.tensor([[1., 0]]), 'layer.expert_weights')
    image = np.full((40, 40, 3), 255, np.uint8)
    painted = ExpertVisualizer()._draw_instances(image, found, ('a', ), None)
    assert painted.shape == image.shape and (painted != image).any()

    kind = next(name for name, t in box_types.items() if t.box_dim == 5)
    plain = SimpleNamespace(box_type='hbox')
    for steps, rotated in (
        ([plain], False), ([plain, object()], False),
        ([plain, SimpleNamespace(box_type_mapping={'gt_bboxes': kind})], True),
        ([SimpleNamespace(box_type=kind)], True)):
        dataset = SimpleNamespace(pipeline=SimpleNamespace(transforms=steps))
        assert has_rotated_boxes(dataset) == rotated


def test_no_such_type():
    with pytest.raises(Undecided, match='boxes have 6 numbers'):
        enclosing(torch.zeros(1, 6))


@MODELS.register_module(force=True)
class FiveNumbersHead(FCOSHead):
    """FCOS whose detections are upright boxes of five numbers."""

    def predict_by_feat(self, *args, **kwargs):
        found = super().predict_by_feat(*args, **kwargs)
        for one in found:
            one.bboxes = HorizontalBoxes(one.bboxes).convert_to('five').tensor \
                if 'five' in box_types else upright(one.bboxes)
        return found

    def loss_by_feat(self, cls_scores, bbox_preds, centernesses,
                     batch_gt_instances, batch_img_metas,
                     batch_gt_instances_ignore=None):
        raise AssertionError('the ranges of FCOS are its rule')

    def get_targets(self, points, batch_gt_instances):
        assert all(x.bboxes.shape[-1] == 5 for x in batch_gt_instances)
        return super().get_targets(points, [
            InstanceData(bboxes=enclosing(x.bboxes), labels=x.labels)
            for x in batch_gt_instances])


def test_levels_and_weights_of_a_head_of_five_numbers(five):
    """A head is asked what its detections were among, whatever its boxes."""
    at = 'bbox_head.cls_convs.0.conv'
    found = {}
    for head in ('FCOSHead', 'FiveNumbersHead'):
        torch.manual_seed(0)
        cfg = small('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
                    bbox_head=dict(type=head))
        cfg.update(type='MoEDetector', detector=cfg.type,
                   experts=[dict(at=at, num_experts=4)])
        cfg.test_cfg.update(score_thr=0.0, max_per_img=20)
        detector = MODELS.build(cfg).eval()
        torch.manual_seed(1)
        sample = DetDataSample(metainfo=dict(
            img_id=0, img_shape=(96, 128), ori_shape=(48, 64),
            pad_shape=(96, 128), batch_input_shape=(96, 128),
            scale_factor=(2., 2.)))
        boxes = torch.tensor([[4., 4, 14, 16], [10, 5, 60, 45]])
        if head == 'FiveNumbersHead':
            boxes = upright(boxes)
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([0, 1]))
        with torch.no_grad():
            found[head], = detector(
                torch.randn(1, 3, 96, 128), [sample], mode='predict')
    dense, rotated = (found[head] for head in ('FCOSHead', 'FiveNumbersHead'))
    assert rotated.undecided == {}
    assert rotated.pred_instances.bboxes.shape[1] == 5
    for field in ('level_ids', f'{at}.expert_weights'):
        torch.testing.assert_close(rotated.pred_instances[field],
                                   dense.pred_instances[field])
    assert rotated.gt_origins.levels_by == 'assigner'
    # 20 x 24 and 100 x 80 in the input: below 64, and from 64 to 128.
    assert rotated.gt_origins.level_ids.tolist() == [0, 1]
    assert dense.gt_origins.level_ids.tolist() == [0, 1]


@MODELS.register_module(force=True)
class TrainedFiveNumbersHead(FiveNumbersHead):
    """The same with the loss of FCOS."""
    loss_by_feat = FCOSHead.loss_by_feat


def test_upcycling_compares_losses_for_boxes_of_the_type(five):
    cfg = small('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
                bbox_head=dict(type='TrainedFiveNumbersHead'))
    dense = MODELS.build(dict(cfg))
    moe = MODELS.build(dict(
        cfg, type='MoEDetector', detector=cfg.type,
        experts=[dict(at='bbox_head.cls_convs.0.conv', num_experts=4)]))
    upcycle(moe, dense.state_dict())
    assert 'losses and outputs equal' in compare(dense, moe)


def shrunk(path):
    """A stock config of MMRotate with thin backbone, neck and heads."""
    from pathlib import Path

    from mmengine.config import Config
    model = Config.fromfile(
        Path(mmrotate.__file__).parent / '.mim' / 'configs' / path).model

    def narrow(cfg):
        for key, value in (cfg.items() if isinstance(cfg, dict) else
                           enumerate(cfg)):
            if key in ('in_channels', 'out_channels', 'feat_channels',
                       'fc_out_channels') and isinstance(value, int):
                cfg[key] = 64
            elif key in ('num_classes', 'score_thr', 'max_per_img'):
                cfg[key] = dict(num_classes=5, score_thr=0.0).get(key, 50)
            elif isinstance(value, (dict, list)):
                narrow(value)

    narrow(model)
    model.backbone.update(
        depth=18, base_channels=8, frozen_stages=-1, init_cfg=None)
    model.neck.in_channels = [8, 16, 32, 64]
    return model


TOWER, FC = 'bbox_head.cls_convs.0.conv', 'roi_head.bbox_head.shared_fcs.1'


@pytest.mark.skipif(mmrotate is None, reason='MMRotate is not installed')
@pytest.mark.parametrize('path, at, numbers', [
    ('rotated_retinanet/rotated-retinanet-rbox-le90_r50_fpn_1x_dota', TOWER, 5),
    ('rotated_fcos/rotated-fcos-le90_r50_fpn_1x_dota', TOWER, 5),
    ('rotated_atss/rotated-atss-le90_r50_fpn_1x_dota', TOWER, 5),
    ('oriented_rcnn/oriented-rcnn-le90_r50_fpn_1x_dota', FC, 5),
    ('gliding_vertex/gliding-vertex-qbox_r50_fpn_1x_dota', FC, 8),
])
def test_detectors_of_mmrotate(path, at, numbers):
    from mmengine.registry import init_default_scope
    init_default_scope('mmrotate')
    cfg = shrunk(f'{path}.py')
    dense = MODELS.build(copy.deepcopy(cfg))
    cfg.update(type='mmdet.MoEDetector', detector=cfg.type,
               experts=[dict(at=at, num_experts=4)])
    detector = MODELS.build(cfg).eval()
    upcycle(detector, dense.state_dict())
    # whose losses need a GPU in FCOS and ATSS
    assert 'losses and outputs equal' in compare(dense, detector)
    sample = DetDataSample(metainfo=dict(
        img_id=0, img_shape=(128, 160), ori_shape=(64, 80),
        pad_shape=(128, 160), batch_input_shape=(128, 160),
        scale_factor=(2., 2.)))
    boxes = box_types['rbox'](
        torch.tensor([[20., 20, 30, 10, .5], [50, 40, 20, 16, -.4]]))
    sample.gt_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0, 1]))
    with torch.no_grad():
        sample, = detector(
            torch.randn(1, 3, 128, 160), [sample], mode='predict')
    assert sample.undecided == {}
    found = sample.pred_instances
    assert len(found) and found.bboxes.shape[1] == numbers
    assert (found.level_ids >= 0).all()
    assert not found[f'{at}.expert_weights'].isnan().any()
    assert sample.gt_origins.levels_by == 'assigner'
    assert (sample.gt_origins.level_ids >= 0).all()
