"""Levels and queries of detectors of masks, and of learned regions, against a
slow twin: what is silenced is no longer detected."""
import pytest
import stock
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmdet_moe.detection.mask_boxes import boxes_of
from mmdet_moe.detection.provenance import (
    GridProvenance,
    MaskQueryProvenance,
    SparseProvenance,
)
from mmdet_moe.evaluation.objects import detections_of
from mmdet_moe.names import weights_field

BOXES = [[[4., 4, 40, 40]], [[2., 2, 20, 20]]]
QUERIES = 12


def model_of(path):
    model = Config.fromfile(stock.CONFIGS / path).model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    if 'neck' in model:
        model.neck.update(in_channels=[8, 16, 32, 64])
    return model


def solo(path):
    model = model_of(path)
    model.mask_head.update(num_classes=3, num_grids=[10, 8, 6, 4, 2])
    model.test_cfg.update(score_thr=0.3, filter_thr=0.0, max_per_img=40)
    return model, ['mask_head.cls_convs.0.conv', (
        'mask_head.kernel_convs.0.conv' if 'v2' in path else
        'mask_head.mask_convs.0.conv' if 'decoupled' not in path else
        'mask_head.mask_convs_x.1.conv')]


def mask_former(path):
    model = model_of(path)
    head = model.panoptic_head
    head.update(in_channels=[8, 16, 32, 64], num_queries=QUERIES)
    head.transformer_decoder.num_layers = 3
    head.pixel_decoder.encoder.num_layers = 1
    model.test_cfg.update(instance_on=True, max_per_image=30)
    return model, ['panoptic_head.transformer_decoder.layers.*.ffn',
                   'panoptic_head.cls_embed']


def sparse(path):
    model = model_of(path)
    model.rpn_head.num_proposals = QUERIES
    roi = model.roi_head
    if 'mask_head' in roi:
        roi.mask_head = roi.mask_head[:2]
    roi.bbox_roi_extractor.finest_scale = 14
    roi.update(num_stages=2, stage_loss_weights=[1, 1],
               bbox_head=roi.bbox_head[:2])
    model.train_cfg.rcnn = model.train_cfg.rcnn[:2]
    # As QueryInst needs it: its masks are of as many detections.
    model.test_cfg.rcnn.max_per_img = QUERIES
    return model, ['roi_head.bbox_head.*.ffn', 'roi_head.bbox_head.1.fc_reg']


MODELS = {
    'solo/solo_r50_fpn_1x_coco.py': (solo, GridProvenance),
    'solo/decoupled-solo_r50_fpn_1x_coco.py': (solo, GridProvenance),
    'solov2/solov2_r50_fpn_1x_coco.py': (solo, GridProvenance),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py':
    (mask_former, MaskQueryProvenance),
    'maskformer/maskformer_r50_ms-16xb1-75e_coco.py':
    (mask_former, MaskQueryProvenance),
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py': (sparse, SparseProvenance),
    'queryinst/queryinst_r50_fpn_1x_coco.py': (sparse, SparseProvenance),
}
GRIDS = [path for path in MODELS if 'solo' in path]


def detector_of(path):
    torch.manual_seed(0)
    make, kind = MODELS[path]
    model, experts = make(path)
    detector = stock.build(model | dict(
        type='MoEDetector', detector=model.type,
        experts=[dict(at=experts, num_experts=3)]))
    assert type(detector.decision_reporter.provenance) is kind
    if kind is GridProvenance:
        detector.mask_head.register_forward_hook(vary)
    elif kind is SparseProvenance:  # regions of all sizes, which stay
        for name, parameter in detector.named_parameters():
            if '.fc_reg' in name and 'gate' not in name:
                parameter.data.zero_()
        detector.rpn_head.init_proposal_bboxes.weight.data[:, 2:] = (
            torch.linspace(0.1, 1, QUERIES)[:, None])
    return detector


def vary(head, features, outs):
    """A forward hook: random scores and masks of random rectangles."""
    generator = torch.Generator().manual_seed(0)

    def random(x):
        coarse = torch.rand(*x.shape[:2], 3, 4, generator=generator)
        return F.interpolate(coarse, x.shape[-2:])

    *masks, scores = outs
    if torch.is_tensor(scores):  # SOLOv2: kernels, scores, and a map
        kernels, scores = masks
        return ([x.sign() for x in kernels],
                [torch.randn(x.shape, generator=generator) for x in scores],
                random(scores[0].new_empty(len(outs[2]), *outs[2].shape[1:]))
                - 0.5)
    return (*([random(x) for x in levels] for levels in masks),
            [torch.rand(x.shape, generator=generator) for x in scores])


def run(detector):
    torch.manual_seed(1)
    inputs, samples = stock.pictures(BOXES)
    with torch.no_grad():
        return detector(inputs, samples, mode='predict')


def keys_of(found):
    """Class, box and mask of each detection: what no other one has."""
    what = [found.bboxes, *([found.masks] if 'masks' in found else [])]
    return [(int(label), *(x.numpy().tobytes() for x in own))
            for label, *own in zip(found.labels, *what)]


@pytest.mark.parametrize('path', MODELS)
def test_detections_stay_and_have_weights(path):
    detector = detector_of(path)
    with detector.decision_reporter.paused():
        plain = run(detector)
    before = {name: set(vars(m)) for name, m in detector.named_modules()}
    found = run(detector)
    assert {n: set(vars(m)) for n, m in detector.named_modules()} == before
    for a, b in zip(plain, found):
        assert len(b.pred_instances)
        for key, value in a.pred_instances.items():
            assert torch.equal(value, b.pred_instances[key])
        assert not b.undecided
        for name, decision in b.decisions.items():
            weights = b.pred_instances[weights_field(name)]
            rows = b.pred_instances.get(
                'item_ids', b.pred_instances.get('level_ids'))
            assert torch.equal(weights, decision.weights[rows])
        assert 'gt_origins' in b


@pytest.mark.parametrize('path', GRIDS)
def test_a_mask_is_of_the_level_that_has_it_alone(path):
    detector = detector_of(path)
    found = run(detector)
    detector.test_cfg.max_per_img = detector.mask_head.test_cfg.max_per_img = -1
    loud = [0]

    def silence(head, features, outs):
        silent = -1e9 if 'v2' in path else 0  # logits, or probabilities
        which = 1 if 'v2' in path else -1
        outs = list(outs)
        outs[which] = [x if i == loud[0] else torch.full_like(x, silent)
                       for i, x in enumerate(outs[which])]
        return tuple(outs)

    detector.mask_head.register_forward_hook(silence)
    alone = []
    for loud[0] in range(5):
        alone.append([set(keys_of(s.pred_instances)) for s in run(detector)])
    seen, only = set(), 0
    for b, sample in enumerate(found):
        instances = sample.pred_instances
        for level, key in zip(instances.level_ids.tolist(),
                              keys_of(instances)):
            having = [i for i in range(5) if key in alone[i][b]]
            assert level in having
            seen.add(level)
            only += having == [level]
    assert len(seen) > 2 and only > 10


@pytest.mark.parametrize('path', [p for p in MODELS if p not in GRIDS])
def test_a_detection_is_of_the_query_without_which_it_is_none(path):
    detector = detector_of(path)
    found = run(detector)
    silent = [0]

    def silence_masks(head, args, outs):
        scores = outs[0][-1].clone()
        scores[:, silent[0], :-1] = -1e4
        return [*outs[0][:-1], scores], outs[1]

    def silence_boxes(head, args, outs):
        scores = outs[0].clone()
        scores[:, silent[0]] = -1e4
        return (scores, *outs[1:])

    if hasattr(detector, 'panoptic_head'):
        detector.panoptic_head.register_forward_hook(silence_masks)
    else:
        detector.roi_head.bbox_head[-1].register_forward_hook(silence_boxes)
    missing = [set() for _ in found]
    items = {i for s in found for i in s.pred_instances.item_ids.tolist()}
    assert len(items) > 3 and min(items) >= 0
    for silent[0] in sorted(items):
        without = run(detector)
        for b, (one, other) in enumerate(zip(found, without)):
            left = set(keys_of(other.pred_instances))
            own = one.pred_instances.item_ids == silent[0]
            gone = [key not in left for key in keys_of(one.pred_instances)]
            assert gone == own.tolist()
            missing[b].update(own.nonzero().flatten().tolist())
    assert [len(m) for m in missing] == [len(s.pred_instances) for s in found]


@pytest.mark.parametrize('path', [
    p for p in MODELS if MODELS[p][1] is SparseProvenance])
def test_a_learned_region_is_on_the_level_that_it_is_cut_out_of(path):
    detector = detector_of(path)
    seen = []
    detector.roi_head.bbox_roi_extractor[-1].register_forward_pre_hook(
        lambda _, args: seen.append(args[1]))
    found, levels = run(detector), set()
    for b, sample in enumerate(found):
        items = sample.pred_instances.item_ids
        _, x1, y1, x2, y2 = seen[0][seen[0][:, 0] == b][items].T
        expected = ((x2 - x1) * (y2 - y1)).sqrt().div(14).log2().floor()
        assert torch.equal(sample.pred_instances.level_ids,
                           expected.clamp(0, 3).long())
        levels.update(sample.pred_instances.level_ids.tolist())
    assert len(levels) > 1


def test_the_box_of_a_mask_is_around_it():
    """By hand; and a detector that gives boxes of zeros matches objects."""
    masks = torch.zeros(3, 6, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7] = masks[1, 5, 0] = True
    found = InstanceData(bboxes=torch.zeros(3, 4), masks=masks)
    assert boxes_of(found).tolist() == [
        [2, 1, 7, 3], [0, 5, 1, 6], [0, 0, 0, 0]]
    found.bboxes[0, 2] = 3  # somebody has computed them
    assert boxes_of(found) is found.bboxes

    detector = detector_of('solo/solo_r50_fpn_1x_coco.py')
    first = run(detector)[0].pred_instances
    assert not first.bboxes.any()
    inputs, samples = stock.pictures([boxes_of(first)[:1].tolist(), []])
    samples[0].gt_instances.labels = first.labels[:1]
    torch.manual_seed(1)
    with torch.no_grad():
        sample = detector(inputs, samples, mode='predict')[0]
    assert sample.gt_origins.level_ids.min() >= 0
    areas = detections_of(sample.to_dict()).areas
    assert (areas > 0).all() and len(areas) == len(sample.pred_instances)


def test_encoder_tokens_are_no_queries_even_if_they_are_as_many():
    model = stock.stock('detr')
    model.num_queries = 12  # as many as the 3 x 4 positions of the encoder
    model.test_cfg.max_per_img = 5
    detector = stock.build(model | dict(
        type='MoEDetector', detector=model.type,
        experts=[dict(at=['encoder.layers.0.ffn', 'decoder.layers.0.ffn'])]))
    sample = run(detector)[0]
    assert list(sample.decisions) == ['decoder.layers.0.ffn']
    assert '12 tokens' in sample.undecided['encoder.layers.0.ffn']
