"""Decisions about flipped images are told in the original image."""
import copy
import json

import pytest
import torch
from detectors import NUM_CLASSES, batch, build, small
from mmdet.models.test_time_augs import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from mmdet_moe.evaluation import ExpertAssignmentMetric
from mmdet_moe.models.frames import frame_of
from mmdet_moe.models.provenance import Undecided
from mmdet_moe.names import weights_field

AT = 'bbox_head.cls_convs.0.conv'
#: Height and width of the image as it is loaded; it is twice as large in the
#: input, and padded to 96 x 128.
SIZE, SCALE = (40, 60), 2.
OBJECTS = torch.tensor([[4., 4, 14, 16], [30, 5, 58, 35], [2, 20, 30, 38]])


@pytest.fixture(scope='module')
def detector():
    torch.manual_seed(0)
    cfg = small('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py')
    cfg.update(
        type='MoEDetector', detector=cfg.type,
        experts=[dict(at=AT, num_experts=4, top_k=2,
                      scope=dict(type='PatchScope', grid=2))])
    cfg.test_cfg.update(score_thr=0.0, max_per_img=20)
    return build(cfg)


def predict(detector, pixels, objects, **meta):
    data = batch(detector, sizes=[(80, 120)], scale=SCALE)
    sample, = data['data_samples']
    sample.set_metainfo(meta)
    sample.gt_instances = InstanceData(
        bboxes=objects, labels=torch.arange(len(objects)))
    with torch.no_grad():
        result, = detector(pixels, [sample], mode='predict')
    return result


def inputs(direction=None):
    """The image fills the upper left part of the input."""
    pixels = torch.zeros(1, 3, 96, 128)
    image = torch.rand((3, 80, 120),
                       generator=torch.Generator().manual_seed(1))
    axes = dict(horizontal=[2], vertical=[1], diagonal=[1, 2]).get(
        direction, [])
    pixels[0, :, :80, :120] = image.flip(axes)
    return pixels


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_flipped_is_the_same_in_another_place(detector, direction):
    """As for the same pixels that are no flipped image, whose objects are
    flipped by hand."""
    pixels = inputs(direction)
    flipped = predict(detector, pixels, OBJECTS, flip=True,
                      flip_direction=direction)
    plain = predict(detector, pixels, bbox_flip(OBJECTS, SIZE, direction))
    assert flipped.undecided == plain.undecided == {}
    for key in ('bboxes', 'labels', 'level_ids', weights_field(AT)):
        assert torch.equal(flipped.pred_instances[key],
                           plain.pred_instances[key]), key
    for key in ('level_ids', 'item_ids'):
        assert torch.equal(flipped.gt_origins[key], plain.gt_origins[key])
    levels = flipped.gt_origins.level_ids
    for boxes, other in (
        (OBJECTS, bbox_flip(OBJECTS, SIZE, direction)),
            (torch.tensor([[0., 0, 60, 40]]), ) * 2):
        for ask in ('at', 'over'):
            one, two = (getattr(s.decisions[AT], ask)(b, levels[:len(b)])
                        for s, b in ((flipped, boxes), (plain, other)))
            assert torch.allclose(one, two)
            assert not one.isnan().any()


def metric(tmp_path, boxes=OBJECTS):
    file = tmp_path / 'objects.json'
    file.write_text(json.dumps(dict(
        images=[dict(id=0, file_name='0.jpg', height=40, width=60)],
        categories=[dict(id=i, name=str(i)) for i in range(NUM_CLASSES)],
        annotations=[
            dict(id=i + 1, image_id=0, category_id=i,
                 bbox=[x, y, x2 - x, y2 - y], area=(x2 - x) * (y2 - y))
            for i, (x, y, x2, y2) in enumerate(boxes.tolist())])))
    result = ExpertAssignmentMetric(str(file))
    result.dataset_meta = dict(classes=list(map(str, range(NUM_CLASSES))))
    return result


def test_merged_views(detector, tmp_path):
    """As MMDetection's retinanet_tta, which loads the objects after the flip:
    the tables are those of the view whose decisions they are."""
    views = dict(horizontal=True, vertical=False)
    samples = [
        predict(detector, inputs(direction if flip else None), OBJECTS,
                flip=flip, flip_direction=direction if flip else None)
        for direction, flip in views.items()
    ]
    tta = DetTTAModel(
        module=detector, tta_cfg=ConfigDict(
            nms=dict(type='nms', iou_threshold=0.5), max_per_img=10))
    merged, = tta.merge_preds([copy.deepcopy(samples)])
    assert weights_field(AT) not in merged.pred_instances
    judge = metric(tmp_path)
    judge.process({}, [merged.to_dict()])
    weights = judge.results[0]['objects']['weights'][AT]
    expected = samples[0].decisions[AT].at(
        OBJECTS, samples[0].gt_origins.level_ids)
    assert torch.allclose(torch.from_numpy(weights), expected)


def test_what_cannot_be_compared(detector, tmp_path):
    """The detections of a flipped image, without merging; and objects that
    were loaded before the flip."""
    judge = metric(tmp_path)
    alone = predict(detector, inputs('horizontal'), OBJECTS, flip=True,
                    flip_direction='horizontal')
    with pytest.raises(ValueError, match='image 0 was flipped.*RandomFlip'):
        judge.process({}, [alone.to_dict()])
    with_it = predict(detector, inputs(), bbox_flip(OBJECTS, SIZE))
    with pytest.raises(ValueError, match='after Resize and RandomFlip'):
        judge.process({}, [with_it.to_dict()])


def test_frames_by_hand():
    meta = dict(img_shape=(80, 120), batch_input_shape=(96, 128),
                scale_factor=(2., 4.), ori_shape=(20, 60))
    frame = frame_of(meta)
    assert (frame.start, frame.extent) == ((0, 0), (24, 64))
    # the right edge of the image, x = 60, is the left edge of the input
    frame = frame_of(dict(meta, flip=True, flip_direction='horizontal'))
    assert (frame.start, frame.extent) == ((0, 60), (24, -64))
    # MMYOLO: 8 pixels above and 12 on the left
    frame = frame_of(dict(meta, pad_param=(8, 8, 12, 0)))
    assert (frame.start, frame.extent) == ((-2, -6), (24, 64))
    assert frame_of({}) is None


@pytest.mark.parametrize('meta, known', [
    (dict(), True), (dict(flip=True, flip_direction='diagonal'), False),
    (dict(flip=True, flip_direction='sideways'), False),
    (dict(scale_factor=(1., 1.)), False)])
def test_what_the_homography_contradicts(meta, known):
    """Here it says: twice as large."""
    twice = torch.diag(torch.tensor([2., 2, 1])).numpy()
    meta = dict(dict(img_shape=(80, 120), scale_factor=(2., 2.),
                     homography_matrix=twice), **meta)
    if known:
        assert frame_of(meta).extent == (40, 60)
    else:
        with pytest.raises(Undecided, match='homography|sideways'):
            frame_of(meta)


def test_an_image_that_cannot_be_mapped_has_a_reason(detector):
    result = predict(
        detector, inputs(), OBJECTS,
        homography_matrix=torch.tensor([[0., -1, 60], [1, 0, 0], [0, 0, 1]]
                                       ).numpy())
    assert isinstance(result, DetDataSample) and len(result.pred_instances)
    assert result.decisions == {} and 'rotated' in result.undecided[AT]
