"""CrowdDet: two boxes per region, and labels that are floats."""
import pytest
import stock
import torch
from mmengine.config import Config

from mmdet_moe.detection.provenance import CrowdProvenance
from mmdet_moe.names import weights_field

FC = 'roi_head.bbox_head.shared_fcs.1'
CONFIGS = ('crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py',
           'crowddet/crowddet-rcnn_refine_r50_fpn_8xb2-30e_crowdhuman.py')


def crowd_det(path):
    torch.manual_seed(0)
    model = Config.fromfile(stock.CONFIGS / path).model
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    model.neck.update(in_channels=[8, 16, 32, 64])
    model.roi_head.bbox_roi_extractor.finest_scale = 8
    model.test_cfg.rpn.max_per_img = 12
    # Nothing is suppressed, so that no detection depends on another one.
    model.test_cfg.rcnn.update(
        score_thr=0.0, max_per_img=100, nms=dict(iou_threshold=1.0))
    return stock.build(model | dict(
        type='MoEDetector', detector=model.type,
        experts=[dict(at=[FC, 'rpn_head.rpn_conv'], num_experts=3)]))


def run(detector):
    torch.manual_seed(1)
    inputs, samples = stock.pictures([[[4., 4, 40, 40]], [[2., 2, 20, 20]]])
    with torch.no_grad():
        return detector(inputs, samples, mode='predict')


@pytest.mark.parametrize('path', CONFIGS)
def test_detections_are_of_the_region_without_which_they_are_none(path):
    detector = crowd_det(path)
    assert type(detector.decision_reporter.provenance) is CrowdProvenance
    found, regions, silent = run(detector), 12, [0]
    for sample in found:
        instances = sample.pred_instances
        assert not sample.undecided and 'gt_origins' in sample
        # each of the regions has two
        assert instances.item_ids.bincount().tolist() == [2] * regions
        assert instances.level_ids.min() >= 0
        assert torch.equal(
            instances[weights_field(FC)],
            sample.decisions[FC].weights[instances.item_ids])

    def silence(head, args, outs):
        outs = list(outs)
        for i in (0, 2):  # scores, and refined ones, if there are any
            if i < len(outs) and outs[i] is not None:
                outs[i] = outs[i].clone()
                scores = outs[i].view(-1, 2, 2)  # background, object
                scores[silent[0]::regions, :, 1] = -1e4
        return tuple(outs)

    detector.roi_head.bbox_head.register_forward_hook(silence)
    for silent[0] in range(0, regions, 3):
        for one, other in zip(found, run(detector)):
            left = {tuple(box) for box in
                    other.pred_instances.bboxes.tolist()}
            gone = [tuple(box) not in left
                    for box in one.pred_instances.bboxes.tolist()]
            own = one.pred_instances.item_ids == silent[0]
            assert gone == own.tolist()
