import pytest
import torch
from mmdet.models.layers import multiclass_nms
from mmengine.structures import InstanceData
from stock import TWO_STAGE, assert_same, build, pictures, predict, stock
from torch import nn

from mmdet_moe.detection.provenance.regions import (
    RegionProvenance,
    match_regions,
)


def detector_of(name, **test_cfg):
    """With levels that the small regions of small pictures differ in."""
    model = stock(name)
    extractor = model.roi_head.bbox_roi_extractor
    extractor.update(finest_scale=8)
    model.test_cfg.rcnn.update(test_cfg)
    return build(model)


def watched(detector, inputs, samples):
    provenance = RegionProvenance(detector)
    with provenance.watch():
        found = predict(detector, inputs, samples)
    return provenance, found


def alone(detector, inputs, samples, picture, item):
    """Boxes and scores of all classes of one region, without the others."""
    with torch.no_grad():
        maps = detector.extract_feat(inputs)
        proposals = detector.rpn_head.predict(maps, samples, rescale=False)
        proposal = proposals[picture].bboxes[item:item + 1]
        every, = detector.roi_head.predict_bbox(
            tuple(m[picture:picture + 1] for m in maps),
            [samples[picture].metainfo], [InstanceData(bboxes=proposal)],
            rcnn_test_cfg=None, rescale=True)
    return every.bboxes.view(-1, 4), every.scores[0]


@pytest.mark.parametrize('name', TWO_STAGE)
def test_detections_come_from_the_region_that_predicts_them_alone(name):
    detector = detector_of(name)
    inputs, samples = pictures()
    seen = []  # the regions as the last stage gets them
    extractor = detector.roi_head.bbox_roi_extractor
    if isinstance(extractor, nn.ModuleList):
        extractor = extractor[-1]
    extractor.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    without = predict(detector, inputs, samples)
    provenance, found = watched(detector, inputs, samples)

    assert provenance.num_items == [50, 50]
    assert provenance.num_levels == 4
    assert provenance.level_sizes == (
        (24, 32), (12, 16), (6, 8), (3, 4), (2, 2))
    rois, levels = seen[-1], []
    for picture, detections in enumerate(found):
        assert_same(detections, without[picture])
        origin = provenance.detections(
            picture, detections, samples[picture].metainfo)
        for i, item in enumerate(origin.items.tolist()):
            bboxes, scores = alone(detector, inputs, samples, picture, item)
            label = detections.labels[i]
            box = bboxes[label if len(bboxes) > 1 else 0]
            assert torch.allclose(detections.bboxes[i], box, atol=1e-3)
            assert torch.allclose(
                detections.scores[i], scores[label], atol=1e-5)
        _, x1, y1, x2, y2 = rois[rois[:, 0] == picture][origin.items].T
        expected = ((x2 - x1) * (y2 - y1)).sqrt().div(8).log2().floor()
        assert torch.equal(origin.levels, expected.clamp(0, 3).long())
        levels += origin.levels.tolist()
    assert len(set(levels)) > 1


@pytest.mark.parametrize('name', ['faster_rcnn', 'cascade_rcnn'])
def test_soft_nms_changes_scores_but_not_regions(name):
    nms = dict(type='soft_nms', iou_threshold=0.3, min_score=1e-3)
    detector = detector_of(name, nms=nms, max_per_img=250)
    inputs, samples = pictures()
    provenance, found = watched(detector, inputs, samples)
    origin = provenance.detections(1, found[1], samples[1].metainfo)
    lowered = 0
    for i in range(0, len(found[1]), 12):
        bboxes, scores = alone(detector, inputs, samples, 1, origin.items[i])
        label = found[1].labels[i]
        box = bboxes[label if len(bboxes) > 1 else 0]
        assert torch.allclose(found[1].bboxes[i], box, atol=1e-3)
        lowered += int(found[1].scores[i] < scores[label] - 1e-4)
    assert lowered


@pytest.mark.parametrize('nms, least', [
    (dict(type='nms', iou_threshold=0.5), 0),
    (dict(type='nms', iou_threshold=0.5, class_agnostic=True), 0),
    (dict(type='soft_nms', iou_threshold=0.3, min_score=0.0), 0),
    # With this method MMCV's scores are NaN for boxes without area.
    (dict(type='soft_nms', method='gaussian', min_score=0.0), 1),
], ids=['hard', 'class_agnostic', 'linear', 'gaussian'])
@pytest.mark.parametrize('per_class', [1, 3])
def test_matching_is_what_nms_itself_says(nms, least, per_class):
    # Corners on a coarse grid: many boxes are equal, many have no area, as
    # boxes have that were clipped to a picture.
    corners = torch.randint(0, 3, (40, per_class, 2, 2)) * 32.0
    corners = corners.sort(dim=2).values
    corners[:, :, 1] += least
    boxes = corners.view(40, per_class * 4)
    scores = torch.rand(40, 4)
    dets, labels, index = multiclass_nms(
        boxes, scores, 0.1, nms, 50, return_inds=True)
    items = match_regions(dets[:, :4], labels, boxes, scores)
    assert torch.equal(items, index // 3)


def test_a_box_that_no_region_has_is_unknown():
    boxes = torch.tensor([[0., 0., 10., 10.], [5., 5., 20., 20.]])
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    items = match_regions(
        torch.tensor([[5., 5., 20., 20.], [0., 0., 10., 11.]]),
        torch.tensor([0, 0]), boxes, scores)
    assert items.tolist() == [1, -1]


@pytest.mark.parametrize('name', ['faster_rcnn', 'cascade_rcnn', 'mask_rcnn'])
@pytest.mark.parametrize('counts', [(2, 0), (0, 0)])
def test_pictures_without_proposals(name, counts):
    detector = detector_of(name)
    inputs, samples = pictures()
    for sample, count in zip(samples, counts):
        boxes = torch.tensor([[4., 4., 40., 40.], [30., 20., 70., 60.]])
        sample.proposals = InstanceData(bboxes=boxes[:count])
    provenance, found = watched(detector, inputs, samples)
    assert provenance.num_items == list(counts)
    for i, count in enumerate(counts):
        origin = provenance.detections(i, found[i], samples[i].metainfo)
        assert len(origin.items) == len(found[i])
        assert bool(len(found[i])) == bool(count)
        assert set(origin.items.tolist()) <= set(range(count))
    assert len(provenance.level_sizes) == 5


def test_objects_are_on_the_level_of_their_own_box():
    # Level 0 below 2 x 56 pixels in the network's input, then doubling.
    provenance = RegionProvenance(build(stock('faster_rcnn')))
    boxes = torch.tensor([[0., 0., 55., 55.], [0., 0., 57., 57.],
                          [10., 10., 121., 121.], [0., 0., 50., 500.],
                          [0., 0., 400., 400.], [0., 0., 3000., 3000.]])
    meta = dict(scale_factor=(2.0, 2.0))
    # Sides at the input: 110, 114, 222, sqrt(100 * 1000) = 316, 800, 6000.
    origin, turned, none = provenance.objects(
        [InstanceData(bboxes=boxes), InstanceData(bboxes=boxes[:1]),
         InstanceData(bboxes=boxes[:0])],
        [meta, dict(scale_factor=(8.0, 1.0)), meta])
    assert origin.levels.tolist() == [0, 1, 1, 2, 3, 3]
    assert origin.items.tolist() == [-1] * 6
    assert turned.levels.tolist() == [1]  # sqrt(440 * 55) = 156
    assert none.levels.shape == none.items.shape == (0, )


def test_levels_are_computed_in_the_precision_of_the_maps():
    detector = build(stock('faster_rcnn'))
    detector.extract_feat = lambda _: [torch.zeros(1, 4, 8, 8).half()] * 5
    provenance = RegionProvenance(detector)
    square = [InstanceData(bboxes=torch.tensor([[0., 0., 300., 300.]]))]
    meta = [dict(scale_factor=(1.0, 1.0))]
    assert provenance.objects(square, meta)[0].levels.tolist() == [2]
    with provenance.watch():
        detector.extract_feat(None)
    # 300 x 300 is more than the largest number of float16.
    assert provenance.objects(square, meta)[0].levels.tolist() == [3]


@pytest.mark.parametrize('kind, strides, levels, level', [
    ('SingleRoIExtractor', [16], 1, 0),
    ('GenericRoIExtractor', [16], 1, 0),
    ('GenericRoIExtractor', [4, 8, 16, 32], 0, -1),
])
def test_extractors_without_a_choice_of_levels(kind, strides, levels, level):
    model = stock('faster_rcnn')
    model.roi_head.bbox_roi_extractor.update(
        type=kind, featmap_strides=strides)
    detector = build(model)
    inputs, samples = pictures()
    provenance, found = watched(detector, inputs, samples)
    origin = provenance.detections(0, found[0], samples[0].metainfo)
    assert provenance.num_levels == levels
    assert (origin.levels == level).all() and (origin.items >= 0).all()


@pytest.mark.parametrize('name', ['faster_rcnn', 'cascade_rcnn'])
def test_everything_is_put_back_also_after_an_exception(name):
    detector = build(stock(name))
    provenance = RegionProvenance(detector)
    before = [dict(vars(m)) for m in detector.modules()]
    theirs = detector.extract_feat
    detector.extract_feat = theirs  # somebody else's wrapping stays
    with pytest.raises(KeyError), provenance.watch():
        raise KeyError
    assert vars(detector)['extract_feat'] is theirs
    del detector.extract_feat
    assert [dict(vars(m)) for m in detector.modules()] == before


def test_other_detectors_are_not_meant():
    assert RegionProvenance.fits(build(stock('cascade_mask')))
    assert not RegionProvenance.fits(build(stock('detr')))
    assert not RegionProvenance.fits(nn.Module())


@pytest.mark.parametrize('scores', [False, True])
def test_boxes_that_are_changed_afterwards(scores):
    """As by Grid R-CNN. If the scores are changed, too, it is unknown."""
    detector = detector_of('faster_rcnn')
    inputs, samples = pictures()
    provenance, found = watched(detector, inputs, samples)
    origin = provenance.detections(0, found[0], samples[0].metainfo)
    found[0].bboxes += 7
    found[0].scores *= 0.5 if scores else 1
    again = provenance.detections(0, found[0], samples[0].metainfo)
    assert (origin.items >= 0).all()
    assert torch.equal(again.items, torch.full_like(again.items, -1)
                       if scores else origin.items)
