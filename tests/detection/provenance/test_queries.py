import pytest
import torch
from stock import TRANSFORMERS, assert_same, build, pictures, predict, stock
from torch import nn

from mmdet_moe.detection.provenance.queries import QueryProvenance


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_detections_come_from_the_query_that_has_their_box(name):
    detector = build(stock(name))
    inputs, samples = pictures()
    without = predict(detector, inputs, samples)
    outputs = []
    detector.bbox_head.register_forward_hook(
        lambda _, args, output: outputs.append(output))
    provenance = QueryProvenance(detector)
    with provenance.watch():
        found = predict(detector, inputs, samples)

    assert provenance.num_items == [30, 30]
    assert provenance.num_levels == 0 and provenance.level_sizes == ()
    assert provenance.objects([], []) is None
    cls_scores, bbox_preds = (o[-1] for o in outputs[0])
    assert len(bbox_preds[0].unique(dim=0)) == 30
    for i, detections in enumerate(found):
        assert_same(detections, without[i])
        origin = provenance.detections(i, detections, samples[i].metainfo)
        assert (origin.levels == -1).all()
        height, width = samples[i].img_shape
        size = torch.tensor([width, height]).float()
        center, side = bbox_preds[i][origin.items].split(2, dim=1)
        corners = torch.stack([center - side / 2, center + side / 2], dim=1)
        corners = (corners * size).clamp(torch.zeros(2), size)
        corners = corners / torch.tensor(samples[i].scale_factor)
        assert torch.allclose(
            corners.flatten(1), detections.bboxes, atol=1e-4)

        logits = cls_scores[i][origin.items]
        sigmoid = detector.bbox_head.loss_cls.use_sigmoid
        scores = logits.sigmoid() if sigmoid else logits.softmax(-1)
        own = scores.gather(1, detections.labels[:, None])[:, 0]
        assert torch.allclose(own, detections.scores)


@pytest.mark.parametrize('queries', [1, 2, 7, 300, 900, 4999])
def test_numbers_of_queries_are_exact(queries):
    model = stock('detr')
    model.test_cfg.max_per_img = queries
    detector = build(model)
    provenance, head = QueryProvenance(detector), detector.bbox_head
    cls_scores, boxes = torch.randn(1, 5, queries, 6), torch.rand(
        1, 5, queries, 4)
    sizes = [(33, 1333), (1333, 33), (800, 1199), (427, 640), (1021, 677)]
    metas = [dict(img_shape=s, scale_factor=(1.7, 0.3)) for s in sizes]
    with provenance.watch():
        found = head.predict_by_feat(
            cls_scores, boxes, batch_img_metas=metas, rescale=True)
    best = cls_scores[0].softmax(-1)[..., :-1].amax(-1)
    for i in range(5):
        items = provenance.detections(i, found[i], metas[i]).items
        assert items.sort().values.tolist() == list(range(queries))
        assert torch.equal(best[i, items], found[i].scores)


def test_detections_that_are_not_the_heads_are_unknown():
    detector = build(stock('deformable_detr'))
    inputs, samples = pictures()
    provenance = QueryProvenance(detector)
    with provenance.watch():
        found = predict(detector, inputs, samples)[0]
    found.scores = found.scores * 0.9
    for changed in (found, found[:7]):
        origin = provenance.detections(0, changed, samples[0].metainfo)
        assert origin.items.tolist() == [-1] * len(changed)


def test_everything_is_put_back_also_after_an_exception():
    detector = build(stock('dino'))
    before = [dict(vars(m)) for m in detector.modules()]
    with pytest.raises(KeyError), QueryProvenance(detector).watch():
        raise KeyError
    assert [dict(vars(m)) for m in detector.modules()] == before


def test_other_detectors_are_not_meant():
    assert QueryProvenance.fits(build(stock('dino')))
    assert not QueryProvenance.fits(build(stock('faster_rcnn')))
    assert not QueryProvenance.fits(nn.Module())
