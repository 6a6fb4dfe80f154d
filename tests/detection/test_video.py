"""Masks of a video are reported about in each frame, by their queries."""
import stock
import torch
from mmdet.structures import TrackDataSample
from mmengine.config import Config

from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.names import weights_field

FRAMES, QUERIES = 3, 12
CONFIG = ('mask2former_vis/'
          'mask2former_r50_8xb2-8e_youtubevis2019.py')
HEAD = 'track_head.transformer_decoder.layers.*.ffn', 'track_head.cls_embed'


def model_with(at):
    model = Config.fromfile(stock.CONFIGS / CONFIG).model
    model.init_cfg = None
    model.backbone.update(depth=18, base_channels=8, init_cfg=None)
    head = model.track_head
    head.update(in_channels=[8, 16, 32, 64], num_queries=QUERIES)
    head.transformer_decoder.num_layers = 3
    head.pixel_decoder.encoder.num_layers = 1
    model.update(type='MoEDetector', detector=model.type,
                 experts=[dict(at=one) for one in at])
    return stock.build(model)


def test_masks_have_the_weights_of_their_queries():
    model = model_with(HEAD)
    inputs, samples = stock.pictures([()] * FRAMES)
    for i, sample in enumerate(samples):
        sample.set_metainfo(dict(frame_id=i, img_shape=stock.SIZE))
        del sample.gt_instances
    scores, video = [], TrackDataSample(video_data_samples=samples)
    with torch.no_grad():
        plain, = model(inputs[None], [video.clone()], mode='predict')
    report_decisions(model)
    model.track_head.register_forward_hook(
        lambda _, __, out: scores.append(out[0][-1][0].softmax(-1)))
    with torch.no_grad():
        result, = model(inputs[None], [video.clone()], mode='predict')
    result.clone()  # a sample of a video holds lists only
    assert len(result) == FRAMES
    for frame, before in zip(result, plain):
        found, expected = (
            x.pred_track_instances for x in (frame, before))
        for key in set(expected.keys()):
            assert torch.equal(found[key], expected[key]), key
        assert not frame.undecided and len(frame.decisions) == 4
        # by the definition of a score: of a query and a class
        assert torch.equal(scores[0][found.item_ids, found.labels],
                           found.scores)
        for name, decision in frame.decisions.items():
            assert decision.weights.shape == (QUERIES, 4)
            assert torch.equal(found[weights_field(name)],
                               decision.weights[found.item_ids])


def test_a_layer_about_frames_has_a_decision_for_each():
    model = model_with(['backbone.layer4.1.conv1'])
    report_decisions(model)
    inputs, samples = stock.pictures([()] * FRAMES)
    with torch.no_grad():
        result, = model(inputs[None], [TrackDataSample(
            video_data_samples=samples)], mode='predict')
    for frame in result:
        (name, decision), = frame.decisions.items()
        weights = frame.pred_track_instances[weights_field(name)]
        assert not frame.undecided and decision.weights.shape == (1, 4)
        assert torch.equal(weights, decision.weights.expand(10, 4))
        assert 'item_ids' in frame.gt_origins
