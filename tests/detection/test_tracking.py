"""Each frame of a video is reported about as its detector alone would be."""
import pytest
import stock
import torch
from mmdet.registry import MODELS
from mmdet.structures import TrackDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmdet_moe.models.padding import ImagesInBatch
from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.names import weights_field

FRAMES = 3
#: By config: where the detector's experts are.
TRACKERS = {
    'qdtrack/qdtrack_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_'
    'test-mot17halfval.py': 'roi_head.bbox_head.shared_fcs.1',
    'masktrack_rcnn/masktrack-rcnn_mask-rcnn_r50_fpn_8xb1-12e_'
    'youtubevis2019.py': 'rpn_head.rpn_conv',
    'sort/sort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_'
    'test-mot17halfval.py': 'roi_head.bbox_head.shared_fcs.1',
    'bytetrack/bytetrack_yolox_x_8xb4-80e_crowdhuman-mot17halftrain_'
    'test-mot17halfval.py': 'bbox_head.multi_level_cls_convs.*.0.conv',
    'ocsort/ocsort_yolox_x_8xb4-amp-80e_crowdhuman-mot17halftrain_'
    'test-mot17halfval.py': 'bbox_head.multi_level_cls_convs.*.0.conv',
}


class Tracker:
    """Tracks nothing: association needs packages that may be missing."""

    def __init__(self):
        self.seen = []

    def reset(self):
        self.seen.clear()

    def track(self, *args, data_sample, **kwargs):
        found = data_sample.pred_instances
        self.seen.append(set(found.keys()))
        return InstanceData(
            bboxes=found.bboxes, labels=found.labels, scores=found.scores,
            instances_id=torch.arange(len(found)))


def tracker_of(path):
    model = Config.fromfile(stock.CONFIGS / path).model
    model.tracker = dict(type=Tracker)
    detector = model.detector
    detector.update(type='MoEDetector', detector=detector.type, init_cfg=None,
                    experts=[dict(at=TRACKERS[path])])
    if detector.detector == 'YOLOX':
        detector.backbone.update(deepen_factor=0.33, widen_factor=0.125)
        detector.neck.update(in_channels=[32, 64, 128], out_channels=32,
                             num_csp_blocks=1)
        detector.bbox_head.update(in_channels=32, feat_channels=32)
        detector.test_cfg.score_thr = 0.0
        detector.test_cfg.max_per_img = 20
    else:
        detector.backbone.update(depth=18, base_channels=8, init_cfg=None)
        detector.neck.in_channels = [8, 16, 32, 64]
        detector.test_cfg.rpn.max_per_img = 30
        detector.test_cfg.rcnn.update(score_thr=0.0, max_per_img=20)
    return model


@pytest.mark.parametrize('size', [stock.SIZE, (70, 90)])  # as is, and padded
@pytest.mark.parametrize('path', TRACKERS)
def test_frames_are_reported_as_by_the_detector_alone(path, size):
    torch.manual_seed(0)
    init_default_scope('mmdet')
    model = MODELS.build(tracker_of(path)).eval()
    for module in model.modules():  # boxes and scores that differ
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.05)
    inputs, samples = stock.pictures([()] * FRAMES)
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(frame_id=i, img_shape=size))
        del sample.gt_instances
    video = TrackDataSample(video_data_samples=samples)
    plain = video.clone()
    ImagesInBatch(model)  # which a report does, too
    with torch.no_grad():
        model(inputs[None], [plain], mode='predict')
    report_decisions(model)
    before = {name: set(vars(m)) for name, m in model.named_modules()}
    seen = list(model.tracker.seen)
    with torch.no_grad():
        result, = model(inputs[None], [video.clone()], mode='predict')
    assert {n: set(vars(m)) for n, m in model.named_modules()} == before
    result.clone()  # a sample of a video holds lists only
    # the tracker sees what it sees without a report
    assert model.tracker.seen[-FRAMES:] == seen

    for i in range(FRAMES):
        alone = samples[i].clone()
        with torch.no_grad():
            alone, = model.detector(inputs[i:i + 1], [alone], mode='predict')
        frame = result[i]
        assert not frame.undecided and len(frame.pred_instances)
        assert set(frame.decisions) == {
            f'detector.{name}' for name in alone.decisions}
        expected = alone.pred_instances
        for key in ('bboxes', 'scores', 'labels'):
            own = frame.pred_instances[key]
            assert torch.equal(plain[i].pred_instances[key], own)
            # Convolutions may depend on where the image lies in memory.
            assert torch.allclose(own, expected[key], rtol=1e-3, atol=1e-4)
        for key in ('level_ids', 'item_ids'):
            assert (key in frame.pred_instances) == (key in expected)
            if key in expected:
                assert torch.equal(frame.pred_instances[key], expected[key])
        for name in alone.decisions:
            own = frame.pred_instances[weights_field(f'detector.{name}')]
            assert own.shape == (len(expected), 4)
            assert torch.allclose(own, expected[weights_field(name)],
                                  atol=1e-4, equal_nan=True)
