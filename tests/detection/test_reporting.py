"""Who decided, in whatever way a detector is run."""
import copy
import warnings

import detectors
import numpy as np
import pytest
import stock
import torch
from mmdet.apis import DetInferencer, inference_detector, init_detector
from mmdet.registry import MODELS, VISUALIZERS
from mmengine.config import Config
from torch import nn

from mmdet_moe.detection.provenance import Undecided
from mmdet_moe.detection.provenance.levels import LevelProvenance
from mmdet_moe.layers import moe_layers, traced
from mmdet_moe.models import Mixture
from mmdet_moe.names import weights_field

FC = 'roi_head.bbox_head.shared_fcs.1'


def faster_rcnn(build=stock.build):
    model = stock.stock('faster_rcnn')
    return build(model | dict(
        type='MoEDetector', detector=model.type, experts=[
            dict(at=[FC, 'rpn_head.rpn_conv', 'backbone.layer4.1'],
                 num_experts=3)]))


def run(detector):
    torch.manual_seed(1)
    inputs, samples = stock.pictures()
    with torch.no_grad():
        return detector(inputs, samples, mode='predict')


def test_layers_of_all_kinds():
    detector = faster_rcnn()
    for sample in run(detector):
        backbone, rpn, fc = (
            sample.decisions[name] for name in (
                'backbone.layer4.1', 'rpn_head.rpn_conv', FC))
        found = sample.pred_instances
        # a single map is about everything, with its five the RPN is about
        # the level, and a region about itself
        assert backbone.weights.shape == (1, 3) and backbone.levels is None
        assert rpn.levels == (0, 1, 2, 3, 4)
        assert fc.about == 'items' and fc.weights.shape == (50, 3)
        for decision, rows in ((backbone, torch.zeros(20, dtype=torch.long)),
                               (rpn, found.level_ids), (fc, found.item_ids)):
            name = next(n for n, d in sample.decisions.items()
                        if d is decision)
            assert torch.equal(found[weights_field(name)],
                               decision.weights[rows])


def test_tokens_of_an_encoder_are_no_queries():
    model = stock.stock('detr')
    detector = stock.build(model | dict(
        type='MoEDetector', detector=model.type,
        experts=[dict(at=['encoder.layers.0.ffn', 'decoder.layers.0.ffn'])]))
    sample = run(detector)[0]
    assert list(sample.decisions) == ['decoder.layers.0.ffn']
    # maps of 3 x 4
    assert sample.undecided == {'encoder.layers.0.ffn': (
        'it decides about 12 tokens of a picture that are no queries')}


def test_layers_of_a_head_see_queries():
    """Of the last layer of the decoder, in DETR as (1, B, Q, C)."""
    model = stock.stock('detr')
    detector = stock.build(model | dict(
        type='MoEDetector', detector=model.type,
        experts=[dict(at=['bbox_head.fc_cls', 'bbox_head.reg_ffn'])]))
    for sample in run(detector):
        assert len(sample.decisions) == 2 and not sample.undecided
        found = sample.pred_instances
        for name, decision in sample.decisions.items():
            assert decision.weights.shape == (30, 4)
            assert torch.equal(found[weights_field(name)],
                               decision.weights[found.item_ids])


def test_one_map_is_of_a_level_in_the_head_of_the_levels_only():
    source = faster_rcnn().decision_reporter.provenance
    source.level_sizes = [(24, 32), (12, 16)]
    layer = Mixture(nn.Conv2d(64, 64, 1), dict(num_experts=3))
    with traced(layer) as decisions:
        layer(torch.randn(2, 64, 12, 16))
    for name, levels in (('rpn_head.rpn_conv', (1, )), ('neck', None),
                         ('semantic_head.convs.0', None)):
        decision, counts = source.about(name, decisions[''], 2)
        assert decision.levels == levels and counts == [1, 1]


def test_modules_of_levels_of_one_size():
    """Levels 3 and 4 have one position each: whose module it is tells the
    level. Shared modules are called in the order of the levels."""
    source = LevelProvenance(detectors.build(detectors.HEADS['retinanet']))
    head = source.detector.bbox_head
    head.own = nn.ModuleList(nn.ModuleList([nn.Identity()]) for _ in range(5))
    source.level_sizes = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    mixture = Mixture(nn.Conv2d(8, 8, 1), dict(num_experts=3))

    def levels(layer, *sizes):
        with traced(mixture) as decisions:
            for size in sizes:
                mixture(torch.randn(2, 8, size, size))
        return source.about(layer, decisions[''], 2)[0].levels

    assert [levels(f'bbox_head.own.{i}.0', 1) for i in (3, 4)] == [(3, ), (4, )]
    assert levels('bbox_head.tower', 8, 4, 2, 1, 1) == (0, 1, 2, 3, 4)
    # twice for each, level by level or one after the other
    assert levels('bbox_head.tower', 8, 8, 4, 4, 2, 2, 1, 1, 1, 1) == (
        0, 0, 1, 1, 2, 2, 3, 3, 4, 4)
    assert levels('bbox_head.tower', *(8, 4, 2, 1, 1) * 2) == (
        0, 1, 2, 3, 4) * 2
    # the same maps again, as in DetectoRS; and a pooled map of each level
    assert levels('neck.convs', 8, 4, 8, 4) == (0, 1, 0, 1)
    assert levels('neck.convs', 1, 1, 1, 1, 1) == (0, 1, 2, 3, 4)
    with pytest.raises(Undecided):
        levels('bbox_head.tower', 7, 5)


def test_nothing_is_left_behind_after_an_error():
    detector = faster_rcnn()
    before = set(vars(detector))
    handle = detector.roi_head.bbox_head.register_forward_pre_hook(
        lambda *_: 1 / 0)
    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError):
        warnings.simplefilter('error')  # it is no error of the report
        run(detector)
    assert set(vars(detector)) == before
    assert not any(layer._observers for layer in moe_layers(detector).values())
    handle.remove()
    assert len(run(detector)[0].decisions) == 3


def test_a_copy_reports_for_itself():
    """As an exponential moving average is one."""
    detector = faster_rcnn()
    twin = copy.deepcopy(detector)
    with torch.no_grad():
        for layer in moe_layers(twin).values():
            layer.gate.fc_bias.copy_(torch.tensor([9.0, 8, -9]))
    for sample in run(twin):
        assert (sample.decisions[FC].weights[:, 2] == 0).all()
    assert any((s.decisions[FC].weights[:, 2] > 0).any()
               for s in run(detector))


def test_a_copy_initialises_itself():
    detector = faster_rcnn(MODELS.build)  # not initialised yet
    twin = copy.deepcopy(detector)
    before = copy.deepcopy(detector.state_dict())
    twin.init_weights()
    for key, value in detector.state_dict().items():
        assert torch.equal(value, before[key]), key
    fc = f'{FC}.experts.0.weight'
    assert not torch.equal(twin.state_dict()[fc], before[fc])


def test_a_layer_that_is_run_on_regions_and_then_on_detections():
    """As a shared head is by a mask head: the regions count."""
    detector = faster_rcnn()
    shared = Mixture(nn.Conv2d(64, 64, 1), dict(num_experts=3)).eval()
    detector.roi_head.shared_head = shared  # the roi head calls it
    predict = detector.roi_head.predict

    def then_on_detections(x, *args, **kwargs):
        found = predict(x, *args, **kwargs)
        shared(torch.randn(7, 64, 7, 7))
        return found

    detector.roi_head.predict = then_on_detections
    for sample in run(detector):
        decision = sample.decisions['roi_head.shared_head']
        assert decision.shapes == ((50, 7, 7), )
        assert len(decision.places()) == len(decision.weights) == 50
        found = sample.pred_instances
        assert torch.equal(found[weights_field('roi_head.shared_head')],
                           decision.weights[found.item_ids])


def test_predictions_without_instances():
    """As of a detector that gives panoptic segments only."""
    detector = faster_rcnn()
    add = detector.add_pred_to_datasample

    def segments_only(samples, results):
        samples = add(samples, results)
        for sample in samples:
            del sample.pred_instances
        return samples

    detector.add_pred_to_datasample = segments_only
    sample = run(detector)[0]
    assert len(sample.decisions) == 3 and 'pred_instances' not in sample


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """A file with a stock config, made small, and a checkpoint."""
    folder = tmp_path_factory.mktemp('config')
    model = stock.stock('faster_rcnn')
    cfg = Config.fromfile(stock.CONFIGS / stock.TWO_STAGE['faster_rcnn'])
    cfg.model = model | dict(
        type='MoEDetector', detector=model.type, experts=[dict(at=FC)])
    cfg.custom_imports = dict(imports=['mmdet_moe'])
    cfg.visualizer.update(type='ExpertVisualizer', vis_backends=[])
    cfg.test_pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(128, 96), keep_ratio=True),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='PackDetInputs', meta_keys=(
            'img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
    cfg.test_dataloader.dataset.pipeline = cfg.test_pipeline
    cfg.dump(folder / 'config.py')
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(),
                    meta=dict(dataset_meta=dict(
                        classes=tuple('abcde'), palette=[(9, 9, 9)] * 5))),
               folder / 'moe.pth')
    return str(folder / 'config.py'), str(folder / 'moe.pth')


def test_inference_detector(config):
    detector = init_detector(*config, device='cpu')
    picture = np.random.default_rng(0).integers(0, 255, (96, 128, 3), np.uint8)
    sample = inference_detector(detector, picture)
    weights = sample.pred_instances[weights_field(FC)]
    assert len(weights) and torch.equal(
        weights, sample.decisions[FC].at(
            sample.pred_instances.bboxes,
            items=sample.pred_instances.item_ids))
    visualizer = VISUALIZERS.build(detector.cfg.visualizer)
    visualizer.dataset_meta = detector.dataset_meta
    visualizer.add_datasample('x', picture, sample, draw_gt=False)
    assert visualizer.get_image().shape == picture.shape


def test_inferencer(config):
    picture = np.zeros((96, 128, 3), np.uint8)
    inferencer = DetInferencer(*config, device='cpu', show_progress=False)
    result = inferencer(picture, return_datasamples=True, return_vis=True)
    sample, = result['predictions']
    assert weights_field(FC) in sample.pred_instances
    assert result['visualization'][0].shape == picture.shape
