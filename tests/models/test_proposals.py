"""What is accepted works, and what a message proposes is accepted."""
import copy
import re

import detectors
import pytest
import stock
import torch
from detectors import HEADS, small
from mmdet.registry import MODELS
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from torch import nn

from mmdet_moe.detection.detector import add_experts
from mmdet_moe.layers import moe_layers, upcycle
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.models.trial import flaw

OBJECTS = [[(8, 8, 40, 40), (20, 16, 56, 60)], [(4, 4, 50, 60)]]
SWIN = dict(
    type='SwinTransformer', embed_dims=12, depths=(2, 2), num_heads=(3, 3),
    window_size=4, strides=(4, 2), out_indices=(0, 1))


def sep_bn():
    model = small(HEADS['retinanet'])
    model.bbox_head = dict(
        type='RetinaSepBNHead', num_ins=5, num_classes=detectors.NUM_CLASSES,
        in_channels=64, feat_channels=64, stacked_convs=2,
        norm_cfg=dict(type='BN'), anchor_generator=model.bbox_head[
            'anchor_generator'], bbox_coder=model.bbox_head['bbox_coder'])
    return model


def ddod():
    model = small('ddod/ddod_r50_fpn_1x_coco.py')
    model.bbox_head.update(stacked_convs=1)
    model.bbox_head.anchor_generator.strides = [8, 16, 32]
    model.neck.num_outs = 3  # a deformable convolution needs 3x3 positions
    return model


def with_swin():
    model = small(HEADS['retinanet'])
    model.backbone = dict(SWIN)
    model.neck.update(in_channels=[12, 24], start_level=0)
    return model


#: By a short name what builds the config of a detector.
MODELS_OF = dict(
    {name: lambda name=name: small(HEADS[name])
     for name in ('tood', 'yolox', 'rtmdet', 'fcos')},
    **{name: lambda name=name: stock.stock(name)
       for name in ('faster_rcnn', 'detr', 'dab_detr', 'deformable_detr',
                    'deformable_detr_refine')},
    sep_bn=sep_bn, ddod=ddod, swin=with_swin)


def build(name, **experts):
    model = MODELS_OF[name]()
    init_default_scope('mmdet')
    if experts:
        model = dict(model, type='MoEDetector', detector=model['type'],
                     experts=[dict(num_experts=3, top_k=2, **experts)])
    return MODELS.build(model)


def losses(detector):
    """One forward pass in training."""
    detector.train()
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD's
    size = 128 if 'DDOD' in type(detector).__name__ else 64
    data = detectors.batch(detector, sizes=2 * [(size, size)],
                           objects=OBJECTS)
    return detector.loss(data['inputs'], data['data_samples'])


@pytest.mark.parametrize('name, at, expected', [
    ('swin', 'backbone.stages.*.blocks.*.ffn', {}),
    ('detr', 'decoder.layers.*.ffn', {}),
    # TOODHead.init_weights: normal_init(m.conv, std=0.01)
    ('tood', 'bbox_head.inter_convs.*', {'conv.weight': ('std', 0.01)}),
    ('tood', 'bbox_head.inter_convs.*.conv', {'weight': ('std', 0.01)}),
    ('ddod', 'bbox_head.cls_convs.*', {'conv.weight': ('std', 0.01)}),
    ('sep_bn', 'bbox_head.cls_convs.*.*.conv', {'weight': ('std', 0.01)}),
    # -log((1 - p) / p) for p = 0.01 is -log(99)
    ('yolox', 'bbox_head.multi_level_conv_cls.*', {'bias': ('mean', -4.595)}),
    ('dab_detr', 'bbox_head.fc_reg', {'layers.2.weight': ('std', 0.0)}),
    ('deformable_detr', 'bbox_head.reg_branches.*',
     {'4.weight': ('std', 0.0)}),
])
def test_accepted_initialised_and_run(name, at, expected):
    """Each expert is drawn as the head draws the layer, and the detector runs
    as the dense one does where the experts are copies."""
    torch.manual_seed(0)
    detector = build(name, at=at)
    gates = [layer.gate.fc_weight.clone() for layer in moe_layers(
        detector).values()]
    detector.init_weights()
    layers = moe_layers(detector).values()
    for layer, gate in zip(layers, gates):
        assert torch.equal(layer.gate.fc_weight, gate)
        for expert in layer.experts:
            for key, (what, value) in expected.items():
                parameter = expert.get_parameter(key)
                assert getattr(parameter, what)().item() == pytest.approx(
                    value, rel=0.1, abs=1e-3)
        first, second = layer.experts[:2]
        assert not all(map(torch.equal, first.parameters(),
                           second.parameters()))
    assert not any('_params_init_info' in vars(m) for m in detector.modules())
    assert _finite(losses(detector))
    dense = build(name)
    dense.init_weights()
    assert upcycle(detector, dense.state_dict()).matches
    detector.eval(), dense.eval()
    data = detectors.batch(dense, sizes=[(128, 128)])
    with torch.no_grad():
        one, two = (_tensors(model(copy.deepcopy(data['inputs']),
                                   copy.deepcopy(data['data_samples']),
                                   mode='tensor')) for model in (
                                       dense, detector))
    for a, b in zip(one, two):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)


def _tensors(value):
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, (list, tuple, type({}.values()))):
        return []
    return [tensor for item in value for tensor in _tensors(item)]


@pytest.mark.parametrize('name, experts, key', [
    # A second input that is optional, and handed over.
    ('tood', dict(at='bbox_head.cls_decomp'), 'feat, avg_feat'),
    ('swin', dict(at='backbone.stages.0.blocks.0.attn.w_msa'), 'mask'),
    # Others read the weights or the parts, or share them.
    ('tood', dict(at='bbox_head.cls_decomp.reduction_conv'),
     'TaskDecomposition'),
    ('detr', dict(at='decoder.layers.0.self_attn.attn.out_proj'),
     'MultiheadAttention'),
    ('sep_bn', dict(at='bbox_head.cls_convs.1.0'),
     'bbox_head.cls_convs.0.0.conv'),
    ('deformable_detr_refine', dict(after='bbox_head.reg_branches.0'),
     'Sequential'),
    # Not one tensor, or of other channels than its first layer.
    ('swin', dict(at='backbone.patch_embed'), 'tuple'),
    ('yolox', dict(at='backbone.stem'), 'Focus'),
    ('faster_rcnn', dict(at='roi_head.bbox_roi_extractor'), 'rois'),
    # Parts of a whole, lists, and what has no weights.
    ('detr', dict(at='decoder.layers.*'), 'DetrTransformerDecoderLayer'),
    ('detr', dict(at='decoder.layers.0.self_attn'), 'query, key'),
    ('swin', dict(at='backbone'), 'SwinTransformer'),
    ('faster_rcnn', dict(at='roi_head.bbox_head'), 'Shared2FCBBoxHead'),
    ('faster_rcnn', dict(at='roi_head.bbox_head.shared_fcs'), 'ModuleList'),
    ('faster_rcnn', dict(at='backbone.bn1'), 'BatchNorm2d'),
    # Names that there are not.
    ('faster_rcnn', dict(at='bbox_head.shared_fcs.1'),
     'accepted: roi_head.bbox_head.shared_fcs.1'),
    ('faster_rcnn', dict(at='roi_head.bbox_head.shared_fc.*'),
     'accepted: roi_head.bbox_head.shared_fcs.*'),
    ('fcos', dict(at='bbox_head.towers.*'), 'accepted in bbox_head:'),
    ('detr', dict(at='head.*'), 'accepted in the model: encoder.layers.*.ffn'),
    # With options that fit some modules only.
    ('faster_rcnn', dict(at='head.*', scope=dict(type='LevelScope')),
     'neck.lateral_convs.*'),
    ('fcos', dict(after='bbox_head.cls_conv.*'), 'bbox_head.cls_convs.*'),
])
def test_the_second_try_works(name, experts, key):
    """Whatever a message proposes builds, is initialised and runs."""
    with pytest.raises(ConfigError) as error:
        build(name, **experts)
    message = str(error.value)
    assert key in message
    proposed = re.search(r'accepted[^:]*: (.+)$', message).group(1).split(', ')
    assert proposed
    options = {k: v for k, v in experts.items() if k not in ('at', 'after')}
    place, = {'at', 'after'} & experts.keys()
    detector = build(name, **{place: proposed}, **options)
    detector.init_weights()
    assert _finite(losses(detector))


def _finite(found):
    return all(torch.isfinite(sum(v) if isinstance(v, list) else v).all()
               for v in found.values())


class Plain(nn.Module):
    """Layers that are no nn.Conv2d and no nn.Linear."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 4, 1)
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(self.conv(x))


def test_what_has_other_layers():
    model = nn.ModuleDict(dict(part=Plain()))
    with pytest.raises(ConfigError, match='Conv1d.*accepted in part: part.fc'):
        add_experts(model, [dict(at='part.conv')])


def test_what_waits_for_other_ranks():
    model = small(HEADS['fcos'], bbox_head=dict(norm_cfg=dict(type='SyncBN')))
    name = 'bbox_head.cls_convs.*'
    with pytest.raises(ConfigError, match='SyncBatchNorm.*accepted inside of '
                       r'it: bbox_head\.cls_convs\.\*\.conv$'):
        add_experts(MODELS.build(copy.deepcopy(model)), [dict(at=name)])
    add_experts(MODELS.build(model), [dict(at=f'{name}.conv')])


def test_one_module_under_two_names():
    name = 'bbox_head.cls_convs.{}.0.conv'
    both = [name.format(0), name.format(1)]
    detector = build('rtmdet', at=both)  # of one entry
    assert detector.get_submodule(both[0]) is detector.get_submodule(both[1])
    model = MODELS_OF['rtmdet']()
    with pytest.raises(ConfigError, match=r'0\.0\.conv: both are names of one'):
        MODELS.build(dict(model, type='MoEDetector', detector=model['type'],
                          experts=[dict(at=one) for one in both]))


def test_a_trial_leaves_nothing_behind():
    """Neither in the generators nor in the modules."""
    dense = build('faster_rcnn').train()
    state, modes = copy.deepcopy(dense.state_dict()), [
        m.training for m in dense.modules()]
    before = torch.get_rng_state()
    for module in dense.modules():
        flaw(module)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(state[k], v) for k, v in dense.state_dict().items())
    assert modes == [m.training for m in dense.modules()]


@pytest.mark.parametrize('size', [1, 7, 14, 64])
def test_a_trial_finds_the_size_of_maps(size):
    """1: the context that GCNet adds to all positions."""
    assert flaw(nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.LayerNorm([4, size, size]))) is None
