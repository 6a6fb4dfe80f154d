import pytest
import torch
from detectors import HEADS, batch, build, small
from mmdet.models.task_modules.assigners import BaseAssigner
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData

from mmdet_moe.detection.provenance.levels import LevelProvenance


def shared_rtmdet(**overrides):
    """RTMDet with the towers of RTMDetHead, which shares their weights."""
    model = small(HEADS['rtmdet'], **overrides)
    model.bbox_head.type = 'RTMDetHead'
    for key in ('share_conv', 'exp_on_reg', 'pred_kernel_size'):
        del model.bbox_head[key]
    return build(model)


def detector_of(name, **overrides):
    if name == 'rtmdet_shared':
        return shared_rtmdet(**overrides)
    return build(HEADS[name], **overrides)


def predict(detector, data):
    with torch.no_grad():
        # Detectors write their results into the samples.
        samples = [sample.clone() for sample in data['data_samples']]
        return detector.predict(data['inputs'], samples)


def scores_say_the_level(head, features, outs):
    """A forward hook: random scores of (5 k + level) / 2000 with whole k.

    All factors of scores, maps of one channel per prior, become 1; boxes are
    made less alike.
    """
    generator = torch.Generator().manual_seed(0)

    def random(x):
        return torch.rand(x.shape, generator=generator)

    scores, boxes, *factors = outs
    is_probability = scores[0].min() > 0  # TOOD's are, others are logits
    scores = [((20 + 360 * random(x)).floor() * 5 + level) / 2000
              for level, x in enumerate(scores)]
    return (scores if is_probability else [x.logit() for x in scores],
            [x + random(x) for x in boxes],
            *([torch.full_like(x, 30) for x in maps] for maps in factors))


def level_said(scores):
    return (scores * 2000).round().long() % 5


@pytest.mark.parametrize('name', [*HEADS, 'rtmdet_shared'])
def test_detections_are_of_the_level_that_their_score_says(name):
    # Nothing is suppressed, so that some boxes, such as that of the whole
    # picture, are found on several levels.
    detector = detector_of(
        name, test_cfg=dict(max_per_img=200, nms=dict(iou_threshold=1.0)))
    head = detector.bbox_head
    head.register_forward_hook(scores_say_the_level)
    data = batch(detector, scale=2.0)
    plain = predict(detector, data)
    attributes = dict(vars(head))
    assert LevelProvenance.fits(detector)
    provenance = LevelProvenance(detector)
    with provenance.watch():
        watched = predict(detector, data)
    assert vars(head) == attributes and len(head._forward_hooks) == 1
    seen = set()
    for picture, (a, b) in enumerate(zip(plain, watched)):
        a, b = a.pred_instances, b.pred_instances
        assert len(b) > 20
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(a[key], b[key])
        origin = provenance.detections(picture, b, watched[picture].metainfo)
        # PAA's scores are square roots.
        scores = b.scores**2 if name == 'paa' else b.scores
        truth = level_said(scores)
        assert torch.equal(origin.levels, truth)
        assert torch.equal(origin.items, torch.full_like(truth, -1))
        seen.update(truth.tolist())
    assert len(seen) >= 3


def test_sizes_of_the_levels():
    detector = build(HEADS['retinanet'])
    detector.bbox_head.register_forward_hook(scores_say_the_level)
    data = batch(detector, scale=2.0)
    provenance = LevelProvenance(detector)
    with provenance.watch():
        sample = predict(detector, data)[0]
    found = sample.pred_instances
    levels = provenance.detections(0, found, sample.metainfo).levels
    assert torch.equal(levels, level_said(found.scores))
    # Both pictures are in a batch of 96 x 96.
    assert provenance.level_sizes == [(12, 12), (6, 6), (3, 3), (2, 2), (1, 1)]
    assert provenance.num_levels == 5
    assert provenance.num_items == () and provenance.item_modules == ()


def test_detections_with_scores_changed_by_soft_nms():
    """The widths say the level: 6, 10, 14, 18 or 22 pixels and up to one."""
    detector = build(
        HEADS['fcos'],
        test_cfg=dict(max_per_img=1000, nms=dict(type='soft_nms')))

    def hook(head, features, outs):
        scores, distances, factors = outs
        return ([torch.randn_like(x) for x in scores], [
            3 + 2 * level + torch.rand_like(x) / 2
            for level, x in enumerate(distances)
        ], factors)

    detector.bbox_head.register_forward_hook(hook)
    provenance = LevelProvenance(detector)
    with provenance.watch():
        sample = predict(detector, batch(detector))[0]
    found = sample.pred_instances
    # Boxes are cut at the border of the picture of 64 x 96.
    x1, _, x2, _ = found.bboxes.unbind(dim=1)
    whole = (x1 > 0) & (x2 < 96)
    levels = provenance.detections(0, found, sample.metainfo).levels[whole]
    assert len(levels) > 200 and len(levels.unique()) > 3
    assert torch.equal(levels, ((x2 - x1 - 5.9) / 4).long()[whole])


def test_one_level():
    detector = build(
        'yolof/yolof_r50-c5_8xb8-1x_coco.py',
        neck=dict(in_channels=64, block_mid_channels=16),
        test_cfg=dict(score_thr=0.0))
    data = batch(detector, objects=[[[8, 8, 40, 40]], []])
    provenance = LevelProvenance(detector)
    with provenance.watch():
        samples = predict(detector, data)
    assert provenance.num_levels == 1
    found = samples[0].pred_instances
    levels = provenance.detections(0, found, samples[0].metainfo).levels
    assert levels.tolist() == [0] * len(found) and len(found) > 20
    assert objects_of(provenance, samples) == [[0], []]


def test_nothing_is_left_after_an_exception():
    detector = build(HEADS['retinanet'])
    provenance = LevelProvenance(detector)
    with pytest.raises(KeyError), provenance.watch():
        predict(detector, batch(detector))
        raise KeyError
    assert not detector.bbox_head._forward_hooks
    with provenance.watch():
        pass
    with pytest.raises(RuntimeError, match='no prediction'):
        provenance.detections(0, InstanceData(), {})


def objects_of(provenance, samples):
    """Levels of the objects, given as those of the originals."""
    objects = [
        InstanceData(
            bboxes=s.gt_instances.bboxes / s.scale_factor[0],
            labels=s.gt_instances.labels) for s in samples
    ]
    origins = provenance.objects(objects, [s.metainfo for s in samples])
    return origins and [origin.levels.tolist() for origin in origins]


def watched(detector, data):
    provenance = LevelProvenance(detector)
    with provenance.watch():
        return provenance, predict(detector, data)


def squares(*sides):
    """With the centre in the middle of a picture of 256 x 256."""
    return [[128 - s / 2, 128 - s / 2, 128 + s / 2, 128 + s / 2]
            for s in sides]


def test_objects_of_anchors_sizes():
    """RetinaNet's square anchors have sides of 4 strides, 32 on level 0."""
    detector = build(HEADS['retinanet'])
    data = batch(detector, [(256, 256)] * 3, scale=0.5,
                 objects=[squares(32, 128), [], squares(256, 64)])
    assert objects_of(*watched(detector, data)) == [[0, 2], [], [3, 1]]


def test_objects_by_ranges_of_distances():
    """FCOS: level 0 is for distances up to 64, level 1 up to 128, 2 to 256.

    In a square of 100 they are from 50 to 100. 4 x 4 locations, those at most
    12 from the centre, are of level 0 (stride 8), 6 x 6 less the 2 x 2 in the
    middle of level 1 (stride 16). A square of 2 around the corner of four
    cells has no location within.
    """
    detector = build(HEADS['fcos'])
    data = batch(detector, [(256, 256)] * 2, scale=2.0,
                 objects=[squares(100, 60, 200, 2), []])
    assert objects_of(*watched(detector, data)) == [[1, 0, 2, -1], []]


def record_assignments(head, monkeypatch):
    """Priors and result of each assignment of objects in a training loss."""
    records = []

    def recording(assign):

        def recorded(pred_instances, *args, **kwargs):
            result = assign(pred_instances, *args, **kwargs)
            if result.num_gts:
                records.append((pred_instances.priors, result))
            return result

        return recorded

    # TOOD has one of its assigners under two names.
    for assigner in {x for x in vars(head).values()
                     if isinstance(x, BaseAssigner)}:
        monkeypatch.setattr(assigner, 'assign', recording(assigner.assign))
    return records


def best_priors(result):
    """For each object the positive prior with the largest overlap, or -1."""
    best = []
    for number in range(1, result.num_gts + 1):
        positive = (result.gt_inds == number).nonzero().flatten().tolist()
        best.append(max(positive, key=result.max_overlaps.__getitem__,
                        default=-1))
    return best


def stride_of(priors):
    """Points have their stride; the anchors here are squares of 8 strides."""
    if torch.equal(priors[:, 2], priors[:, 3]):
        return priors[:, 2]
    return (priors[:, 2] - priors[:, 0]) / 8


@pytest.mark.parametrize('name, epoch', [
    ('atss', None), ('gfl', None), ('paa', None), ('vfnet', None),
    ('tood', 0), ('tood', 9), ('tood', None), ('rtmdet', None),
    ('rtmdet_shared', None), ('yolox', None)])
def test_objects_are_where_a_training_loss_has_them(name, epoch, monkeypatch):
    detector = detector_of(name)
    # Of different sizes: some priors are outside of the smaller pictures.
    data = batch(
        detector, [(96, 128), (64, 64), (120, 80)], scale=0.5, objects=[
            [[8, 8, 40, 44], [0, 0, 100, 90], [20, 50, 120, 96]], [],
            [[30, 30, 50, 40], [2, 2, 70, 110]]])
    epochs = MessageHub.get_current_instance().runtime_info
    monkeypatch.setitem(epochs, 'epoch', epoch)
    levels = objects_of(*watched(detector, data))
    assert epochs.get('epoch') == epoch

    # Without an epoch it is as at the end of a training.
    monkeypatch.setitem(epochs, 'epoch', 9 if epoch is None else epoch)
    records = record_assignments(detector.bbox_head, monkeypatch)
    detector.bbox_head.training = True
    with torch.no_grad():
        detector.loss(data['inputs'], data['data_samples'])
    expected = [
        [int((stride_of(priors)[best] / 8).log2()) if best >= 0 else -1
         for best in best_priors(result)] for priors, result in records]
    assert levels == [expected[0], [], expected[1]]
    assert len({*levels[0], *levels[2]}) > 1


def test_objects_are_of_the_level_of_refined_boxes(monkeypatch):
    """RepPoints: the second of its assignments is what classes learn from."""
    detector = build(HEADS['reppoints'])
    data = batch(detector, [(128, 128)],
                 objects=[[[8, 8, 40, 44], [0, 0, 100, 90]]])
    levels, = objects_of(*watched(detector, data))
    records = record_assignments(detector.bbox_head, monkeypatch)
    detector.bbox_head.training = True
    with torch.no_grad():
        detector.loss(data['inputs'], data['data_samples'])
    _, (_, result) = records
    # 16 x 16 locations on level 0, then 8 x 8, and so on.
    ends = torch.tensor([256, 320, 336, 340, 341])
    best = torch.tensor(best_priors(result))
    assert levels == torch.searchsorted(ends, best, right=True).tolist()


@pytest.mark.parametrize('name', ['autoassign', 'foveabox', 'free_anchor',
                                  'fsaf'])
def test_heads_that_leave_the_level_to_the_loss(name):
    detector = build(HEADS[name])
    for objects in ([[[8, 8, 40, 44]], []], [[], []]):
        data = batch(detector, objects=objects)
        assert objects_of(*watched(detector, data)) is None


def test_no_objects_at_all():
    detector = build(HEADS['yolox'])
    assert objects_of(*watched(detector, batch(detector))) == [[], []]


def test_no_rule_without_a_training_config():
    detector = build(HEADS['atss'], train_cfg=None)
    assert objects_of(*watched(detector, batch(detector))) is None
