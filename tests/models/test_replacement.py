"""Experts by name: what is replaced, and what is refused."""
import copy

import pytest
import stock
import torch
from detectors import HEADS, small
from mmcv.cnn import ConvModule
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from mmdet_moe.detection.detector import add_experts
from mmdet_moe.layers import moe_layers
from mmdet_moe.models.hints import matches

FCS = 'roi_head.bbox_head.shared_fcs'


def build(name, *at, **options):
    model = stock.stock(name)
    init_default_scope('mmdet')
    return MODELS.build(
        dict(model, type='MoEDetector', detector=model.type,
             experts=[dict(at=list(at), **options)]))


def test_a_pattern_is_matched_part_by_part():
    assert matches('a.b0.c', 'a.b*.c') and matches('a.b', 'a.*')
    assert not matches('a.b.c', 'a.*') and not matches('a', 'a.*')


def test_the_table_of_what_was_replaced():
    detector = stock.build(stock.stock('faster_rcnn'))
    dense = detector.get_submodule(f'{FCS}.1')
    one, two = add_experts(
        detector, [dict(at=f'{FCS}.*', num_experts=3, top_k=1)])
    assert two.names == [f'{FCS}.1'] and two.was == 'Linear'
    # 64 x 64 + 64, three times, and a gate of 3 x 64 + 3
    assert tuple(two.parameters) == (4160, 3 * 4160 + 195)
    assert two.now is detector.get_submodule(f'{FCS}.1')
    assert not torch.equal(two.now.experts[0].weight, dense.weight)
    assert list(moe_layers(detector)) == [f'{FCS}.0', f'{FCS}.1']


def test_one_module_under_several_names_stays_one():
    """The levels of RTMDet share their convolutions."""
    model = small(HEADS['rtmdet'])
    detector = MODELS.build(
        dict(model, type='MoEDetector', detector=model.type,
             experts=[dict(at='bbox_head.cls_convs.0.0.conv')]))
    names = [f'bbox_head.cls_convs.{level}.0.conv' for level in range(3)]
    assert len({id(detector.get_submodule(name)) for name in names}) == 1
    assert list(moe_layers(detector)) == names[:1]


@pytest.mark.parametrize('experts, message', [
    ([dict(at=f'{FCS}.7')], rf'at=.{FCS}.7.*accepted: {FCS}\.1'),
    ([dict(at='head.*')], 'at=.head.*accepted in the model: .*roi_head'),
    ([dict(num_experts=4)], r"experts\[0\]=.*a dict with 'at'"),
    ([dict(at=f'{FCS}.1'), dict(at=f'{FCS}.*')], f'{FCS}.1 is matched by'),
    ([dict(at=['neck.fpn_convs.0', 'neck.fpn_convs.0.conv'])],
     'neck.fpn_convs.0.conv.*outside of neck.fpn_convs.0'),
    ([dict(at=FCS)], rf'{FCS}.*ModuleList is a list.*inside of it: {FCS}\.\*$'),
    ([dict(at='backbone.bn1')], 'BatchNorm2d has no layer .*: backbone.conv1'),
    *(([dict(at=part)], f'at={part!r}.*a whole part of a detector')
      for part in ('backbone', 'neck', 'rpn_head', 'roi_head.bbox_head')),
    ([dict(at=f'{FCS}.1', top_k=9)], f"at='{FCS}.1': top_k=9"),
    ([dict(at=f'{FCS}.1', num_expert=4)], 'moe.num_expert=4'),
    ([dict(at=f'{FCS}.1', scope=dict(type='LevelScope'))], 'RowScope'),
    ([dict(at='rpn_head.rpn_conv', balance_weight='foreground')],
     'balance_weight'),
])
def test_what_cannot_be(experts, message):
    model = stock.stock('faster_rcnn')
    with pytest.raises(ValueError, match=message):
        MODELS.build(dict(model, type='MoEDetector', detector=model.type,
                          experts=experts))


@pytest.mark.parametrize('name', ['faster_rcnn', 'cascade_rcnn',
                                  'double_head'])
def test_regions_by_foreground(name, monkeypatch):
    """Only positive regions count, in each stage of its own."""
    labels = []

    def loss(head, cls_score, bbox_pred, rois, regions, *args, **kwargs):
        labels.append(regions)
        return BBoxHead.loss_of_mmdet(
            head, cls_score, bbox_pred, rois, regions, *args, **kwargs)

    monkeypatch.setattr(BBoxHead, 'loss_of_mmdet', BBoxHead.loss,
                        raising=False)
    monkeypatch.setattr(BBoxHead, 'loss', loss)
    at = {
        'faster_rcnn': f'{FCS}.1',
        'cascade_rcnn': 'roi_head.bbox_head.*.shared_fcs.1',
        'double_head': 'roi_head.bbox_head.conv_branch.0.conv2',
    }[name]
    detector = copy.deepcopy(
        build(name, at, num_experts=3, balance_weight='foreground',
              soft_constraint=dict(type='KLLoss')))
    detector.train()
    detector.loss(*stock.pictures([[(10, 10, 60, 60)], [(5, 5, 40, 50)]]))
    layers = moe_layers(detector).values()
    assert len(labels) == len(layers)
    for layer, regions in zip(layers, labels):
        positive = regions < stock.NUM_CLASSES
        assert 0 < positive.sum() < len(positive)
        weights = layer.recorder.calls[0].decision.weights[positive]
        importance = layer.collect().importance
        assert torch.allclose(importance / importance.sum(),
                              weights.sum(dim=0) / weights.sum())


def test_what_reads_weights_or_takes_several_inputs():
    tood = MODELS.build(small(HEADS['tood']))
    with pytest.raises(ValueError, match='read by TaskDecomposition.forward'):
        add_experts(
            tood, [dict(at='bbox_head.cls_decomp.reduction_conv.conv')])
    detr = stock.build(stock.stock('detr'))
    with pytest.raises(ValueError, match='takes several inputs: query, key'):
        add_experts(detr, [dict(at='decoder.layers.0.self_attn')])
    with pytest.raises(ValueError, match='read by MultiheadAttention.forward'):
        add_experts(
            detr, [dict(at='decoder.layers.0.self_attn.attn.out_proj')])
    # that which is found only when it is called says so
    head = MODELS.build(small(HEADS['tood'])).bbox_head
    head.cls_decomp.reduction_conv = ConvModule(
        head.cls_decomp.in_channels, 8, 1, conv_cfg=dict(type='MoEConv'))
    with pytest.raises(AttributeError, match='mixture of 4 experts and has no'):
        _ = head.cls_decomp.reduction_conv.conv.weight


def test_no_detector_and_no_experts():
    model = stock.stock('faster_rcnn')
    with pytest.raises(ValueError, match="model.detector=''.*'FasterRCNN'"):
        MODELS.build(dict(model, type='MoEDetector'))
    with pytest.raises(ValueError, match='model.experts=.*at least one'):
        MODELS.build(dict(model, type='MoEDetector', detector=model.type))


@pytest.mark.parametrize('name, at, std', [
    ('faster_rcnn', 'roi_head.bbox_head.fc_cls', 0.01),  # an override
    ('faster_rcnn', f'{FCS}.1', None),  # one for all modules of a list
    ('faster_rcnn', 'rpn_head.rpn_conv', 0.01),  # a rule for Conv2d
    ('detr', 'decoder.layers.0.ffn', None),  # drawn by the detector itself
])
def test_initialised_as_what_it_replaces_but_for_the_gate(name, at, std):
    detector = build(name, at, num_experts=3, top_k=1,
                     hard_constraint=dict(type='LossFreeBias'))
    layer = detector.get_submodule(at)
    gate = layer.gate.fc_weight.detach().clone()
    detector.init_weights()
    assert torch.equal(layer.gate.fc_weight, gate)
    first, second = ([p for p in e.parameters() if p.dim() > 1][0]
                     for e in layer.experts[:2])
    assert not torch.equal(first, second)
    if std is None:  # xavier_uniform_: bound sqrt(6 / (fan_in + fan_out))
        std = (6 / sum(first.shape))**0.5 / 3**0.5
    assert first.std().item() == pytest.approx(std, rel=0.1)


def test_a_frozen_stage_stays_frozen():
    model = stock.stock('faster_rcnn')
    model.backbone.frozen_stages = 2
    detector = MODELS.build(
        dict(model, type='MoEDetector', detector=model.type, experts=[
            dict(at='backbone.layer2.*', top_k=1),
            dict(at='backbone.layer3.*', top_k=1)]))
    detector.train()
    for name, layer in moe_layers(detector).items():
        trained = name.startswith('backbone.layer3')
        assert all(p.requires_grad == trained for p in layer.parameters())
        norm = next(m for m in layer.modules() if isinstance(m, nn.BatchNorm2d))
        assert not norm.training  # norm_eval


def test_parameter_groups_reach_experts_and_gates():
    detector = build('faster_rcnn', f'{FCS}.1', num_experts=3)
    wrapper = build_optim_wrapper(detector, dict(
        optimizer=dict(type='SGD', lr=0.1, weight_decay=0.5),
        paramwise_cfg=dict(custom_keys={
            f'{FCS}.1.gate': dict(lr_mult=10),
            f'{FCS}.1.experts': dict(decay_mult=0)})))
    groups = {id(p): group for group in wrapper.optimizer.param_groups
              for p in group['params']}
    layer = detector.get_submodule(f'{FCS}.1')
    assert all(groups[id(p)]['lr'] == 1 for p in layer.gate.parameters())
    assert all(groups[id(p)]['weight_decay'] == 0
               for p in layer.experts.parameters())
