"""Heads that need more than features to predict, or to assign."""
import detectors
import torch
from mmdet.models.dense_heads import ATSSHead
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmdet_moe.detection.provenance import LevelProvenance

BOXES = [[[2, 2, 30, 30], [0, 0, 90, 60]], [[5, 5, 70, 90]]]


class TokenHead(ATSSHead):
    """Its classes are named by each image, as GLIP's are by its text."""

    def predict(self, x, batch_data_samples, rescale=False):
        return self.predict_by_feat(
            *self(x), rescale=rescale,
            batch_img_metas=[s.metainfo for s in batch_data_samples],
            batch_token_positive_maps=[s.names for s in batch_data_samples])

    def predict_by_feat(self, *outs, batch_img_metas,
                        batch_token_positive_maps, **options):
        found = super().predict_by_feat(
            *outs, batch_img_metas=batch_img_metas, **options)
        for one, names in zip(found, batch_token_positive_maps, strict=True):
            one.labels = names[one.labels]
        return found


def with_experts(model):
    return model | dict(
        type='MoEDetector', detector=model.type,
        experts=[dict(at='bbox_head.cls_convs.0.conv', num_experts=3)])


def run(detector, **names):
    torch.manual_seed(1)
    data = detectors.batch(detector, sizes=((128, 96), (96, 128)),
                           objects=BOXES)
    for sample, own in zip(data['data_samples'], names.get('names', ())):
        sample.set_metainfo(dict(names=own))
    with torch.no_grad():
        return detector(**data, mode='predict')


def test_arguments_of_a_heads_own_are_those_of_the_image():
    def with_head(kind):
        torch.manual_seed(0)
        model = detectors.small(detectors.HEADS['atss'])
        model.bbox_head.update(type=kind, num_classes=5)
        model.test_cfg.update(score_thr=0.0, max_per_img=30)
        detector = detectors.build(with_experts(model))
        torch.nn.init.normal_(detector.bbox_head.atss_cls.weight, std=0.3)
        return detector

    names_of = [torch.tensor([4, 3, 2, 1, 0]), torch.tensor([1, 2, 3, 4, 0])]
    plain = run(with_head('ATSSHead'))
    named = run(with_head(TokenHead), names=names_of)
    for a, b, names in zip(plain, named, names_of):
        found = b.pred_instances
        assert torch.equal(found.labels, names[a.pred_instances.labels])
        assert torch.equal(found.level_ids, a.pred_instances.level_ids)
        assert len(found.level_ids.unique()) > 1
        assert torch.equal(b.gt_origins.level_ids, a.gt_origins.level_ids)


def test_objects_belong_where_their_detections_are_if_a_teacher_assigns_them():
    """LAD: its loss takes the assignment of another detector."""
    path = detectors.STOCK / 'lad' / 'lad_r50-paa-r101_fpn_2xb8_coco_1x.py'
    model = Config.fromfile(path).model
    model.teacher_ckpt = None
    for part in ('', 'teacher_'):
        model[f'{part}backbone'].update(
            depth=18, base_channels=8, init_cfg=None)
        model[f'{part}neck'].update(in_channels=[8, 16, 32, 64])
    model.test_cfg.update(score_thr=0.0, max_per_img=30)
    init_default_scope('mmdet')
    detector = MODELS.build(with_experts(model))
    detector.eval()  # returns nothing here
    assert type(detector.decision_reporter.provenance) is LevelProvenance
    sample = run(detector)[0]
    assert 'gt_origins' not in sample.undecided
    assert sample.gt_origins.levels_by == 'detection'
    assert sample.pred_instances.level_ids.min() >= 0

