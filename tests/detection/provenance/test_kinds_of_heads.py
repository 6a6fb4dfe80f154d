"""Heads that are unlike the others, against a slow twin: where all levels but
one are silenced, all detections are of that one."""
import warnings

import numpy as np
import pytest
import stock
import torch
from detectors import NUM_CLASSES, STOCK, batch, build, small
from mmdet.registry import MODELS
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_moe.detection.provenance import matching_detections
from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.names import weights_field


def yolov3():
    path = STOCK / 'yolo/yolov3_d53_8xb8-320-273e_coco.py'
    model = Config.fromfile(path).model
    model.backbone.init_cfg = None
    model.bbox_head.num_classes = NUM_CLASSES
    model.test_cfg.update(score_thr=0.0, conf_thr=0.0, max_per_img=50)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    return MODELS.build(model).eval()


def single_stage(path, **head):
    model = small(path)
    model.bbox_head.update(head)
    model.test_cfg.update(score_thr=0.0, max_per_img=50)
    return build(model)


KINDS = dict(
    sabl=lambda: single_stage('sabl/sabl-retinanet_r50_fpn_1x_coco.py',
                              approx_anchor_generator=dict(
                                  type='AnchorGenerator', octave_base_scale=4,
                                  scales_per_octave=3, ratios=[0.5, 1.0, 2.0],
                                  strides=[8, 16, 32, 64, 128])),
    rtmdet_ins=lambda: single_stage(
        'rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py'),
    yolov3=yolov3)


def with_masks(data, annotated):
    for sample in data['data_samples']:
        height, width = sample.ori_shape
        n = len(sample.gt_instances)
        if annotated:
            sample.gt_instances.masks = BitmapMasks(
                np.ones((n, height, width), np.uint8), height, width)
    return data


@pytest.mark.parametrize('kind', KINDS)
def test_detections_are_of_the_level_that_is_not_silenced(kind):
    detector = KINDS[kind]()
    report_decisions(detector)
    source = detector.decision_reporter.provenance
    data = batch(detector, sizes=((128, 96), (96, 128)))
    only = [0]

    def silence(head, features, outs):
        first = [x / x.abs().max() - (0 if i == only[0] else 60)
                 for i, x in enumerate(outs[0])]
        return (first, *outs[1:])

    detector.bbox_head.register_forward_hook(silence)
    for only[0] in range(source.num_levels):
        with source.watch(), torch.no_grad():
            found = detector.predict(
                data['inputs'], [s.clone() for s in data['data_samples']])
        assert source.failure is None
        for b, sample in enumerate(found):
            instances = sample.pred_instances
            loud = instances[instances.scores > 1e-6]
            assert len(loud)
            levels = source.detections(b, loud, sample.metainfo).levels
            assert (levels == only[0]).all(), (only, levels)


@pytest.mark.parametrize('annotated', [False, True])
def test_masks_of_objects_and_none_of_candidates(annotated, monkeypatch):
    """RTMDet-Ins: objects have levels by the training's rule, with masks or
    boxes; and as many masks are made as without a report."""
    detector = KINDS['rtmdet_ins']()
    head = type(detector.bbox_head)
    made, make = [], head._mask_predict_by_feat_single
    monkeypatch.setattr(
        head, '_mask_predict_by_feat_single', lambda self, feat, kernels, *x:
        (made.append(len(kernels)), make(self, feat, kernels, *x))[1])
    data = with_masks(batch(detector, objects=[
        [[2, 2, 30, 30], [0, 0, 90, 60]], [[5, 5, 70, 90]]]), annotated)

    def predict():
        made.clear()
        with torch.no_grad():
            return detector(data['inputs'], [
                s.clone() for s in data['data_samples']], mode='predict')

    predict()
    plain = list(made)
    detector.decision_reporter = None
    del detector.decision_reporter
    report_decisions(detector)
    reporter = detector.decision_reporter
    reporter.provenance.failure = None
    with reporter.provenance.watch():
        samples = predict()
        metas = [s.metainfo for s in samples]
        for b, sample in enumerate(samples):
            reporter.provenance.detections(
                b, sample.pred_instances, sample.metainfo)
        origins = reporter.provenance.objects(
            [s.gt_instances for s in data['data_samples']], metas)
    assert made == plain
    assert [len(o.levels) for o in origins] == [2, 1]
    assert all((o.levels >= 0).all() for o in origins)


def test_an_object_outside_of_the_image_has_no_level():
    detector = KINDS['yolov3']()
    report_decisions(detector)
    source = detector.decision_reporter.provenance
    data = batch(detector, sizes=((96, 96), ), objects=[
        [[8, 8, 40, 40], [200, 200, 240, 240], [-50, 10, -20, 40]]])
    with source.watch(), torch.no_grad():
        found = detector.predict(
            data['inputs'], [s.clone() for s in data['data_samples']])
    origin, = source.objects(
        [data['data_samples'][0].gt_instances], [found[0].metainfo])
    assert origin.levels[0] >= 0 and origin.levels[1:].tolist() == [-1, -1]


def test_labels_that_are_floats():
    """As those of CrowdDet."""
    objects = stock.InstanceData(
        bboxes=torch.tensor([[0., 0, 9, 9], [20, 20, 30, 30]]),
        labels=torch.tensor([0, 1]))
    found = stock.InstanceData(
        bboxes=torch.tensor([[20., 20, 30, 30]]), labels=torch.tensor([1.0]),
        scores=torch.tensor([0.9]))
    assert matching_detections(objects, found).tolist() == [-1, 0]


STAGES = {
    'traced': 'mmdet_moe.models.reporting.traced',
    'observer': 'mmdet_moe.layers.Decision.detach',
    'closing': 'mmdet_moe.layers.tracing._Trace.end',
    'watch': 'mmdet_moe.detection.provenance.regions.RegionProvenance.watch',
    'callback': 'mmdet_moe.detection.provenance.regions.RegionProvenance.'
    '_see_regions',
    'about': 'mmdet_moe.models.provenance.Provenance.about',
    'detections':
    'mmdet_moe.detection.provenance.regions.RegionProvenance.detections',
    'at': 'mmdet_moe.layers.Decision.at',
    'part': 'mmdet_moe.layers.Decision.part',
    'objects':
    'mmdet_moe.detection.provenance.regions.RegionProvenance.objects',
    'matching': 'mmdet_moe.detection.reporting.matching_detections'
}


@pytest.mark.parametrize('stage', STAGES)
def test_a_report_that_fails_does_not_end_a_prediction(stage, monkeypatch):
    fc = 'roi_head.bbox_head.shared_fcs.1'
    model = stock.stock('faster_rcnn')
    detector = stock.build(model | dict(
        type='MoEDetector', detector=model.type, experts=[dict(at=fc)]))
    inputs, samples = stock.pictures([[[4., 4, 40, 40]], [[2., 2, 20, 30]]])
    with detector.decision_reporter.paused():
        plain = stock.predict(detector, inputs, samples)

    def fail(*args, **kwargs):
        raise KeyError('planted')

    monkeypatch.setattr(STAGES[stage], fail)
    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter('always')
        for _ in range(2):
            found = detector(
                inputs, [s.clone() for s in samples], mode='predict')
    assert sum('planted' in str(w.message) for w in said) == 1
    for a, sample in zip(plain, found):
        b = sample.pred_instances
        for key in a.keys():  # noqa: SIM118
            assert torch.equal(a[key], b[key])
        if stage in ('objects', 'matching'):  # nothing to do with detections
            assert weights_field(fc) in b
            assert list(sample.undecided) == ['gt_origins']
            assert 'planted' in sample.undecided['gt_origins']
            # the rule has failed, and the detections say it
            assert stage == 'matching' or (
                sample.gt_origins.levels_by == 'detection')
        else:
            assert sample.decisions == {}
            assert sample.undecided[fc].startswith("error: KeyError: 'planted'")
