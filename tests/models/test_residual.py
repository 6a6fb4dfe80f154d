"""Residual mixtures: what they compute, and how they get into a detector."""
import copy

import pytest
import stock
import torch
import torch.nn.functional as F
from detectors import HEADS, small
from mmdet.registry import MODELS
from mmengine.registry import init_default_scope

from mmdet_moe.layers import add_noise, moe_layers, upcycle
from mmdet_moe.models.residual import ResidualMixture


def pyramid():
    return [torch.randn(2, 8, 5, 6), torch.randn(2, 8, 3, 3)]


@pytest.mark.parametrize('norm', [True, False])
@pytest.mark.parametrize('expert', ['ffn', 'conv'])
def test_by_its_definition(expert, norm):
    block = ResidualMixture(
        8, dict(num_experts=3, top_k=2), expert=expert, hidden_channels=4,
        norm=norm)
    x = pyramid()
    for a, b in zip(x, block(x)):
        seen = F.layer_norm(a.movedim(1, -1), (8, )).movedim(-1, 1) if (
            norm) else a
        weights = block.mixture.decide([seen]).weights
        expected = a.clone()
        for e, one in enumerate(block.mixture.experts):
            if expert == 'ffn':  # a weight for each position
                w = weights[:, e].view(2, 1, *a.shape[2:])
                y = one(seen.movedim(1, -1)).movedim(-1, 1)
            else:
                w, y = weights[:, e].view(2, 1, 1, 1), one(seen)
            expected += w * y
        torch.testing.assert_close(b, expected)
    assert torch.equal(block(x[0]), block(x[:1])[0])


@pytest.mark.parametrize('expert', ['ffn', 'conv'])
def test_the_identity_until_it_is_trained(expert):
    block = ResidualMixture(8, {}, expert=expert, identity_at_start=True)
    block.init_weights()
    x = pyramid()
    assert all(map(torch.equal, x, block(x)))
    sum((y * torch.randn_like(y)).sum() for y in block(x)).backward()
    gradients = [e[-1].weight.grad for e in block.mixture.experts]
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)


def detectors(name, **options):
    """A detector with blocks after the modules of a pattern, and without."""
    init_default_scope('mmdet')
    model = stock.stock(name) if name == 'faster_rcnn' else small(HEADS[name])
    return (MODELS.build(dict(model, type='MoEDetector', detector=model.type,
                              experts=[options])), MODELS.build(model))


@pytest.mark.parametrize('name, after, layers', [
    ('fcos', 'bbox_head.*_convs.0', ['bbox_head.cls_convs.0.refined_by.mixture',
                                     'bbox_head.reg_convs.0.refined_by.mixture'
                                     ]),
    ('yolox', 'bbox_head.multi_level_cls_convs.1',
     ['bbox_head.multi_level_cls_convs.1.2.mixture']),
    ('faster_rcnn', 'neck', ['neck.refined_by.mixture']),
    ('faster_rcnn', 'backbone.layer2.0', None),
])
@pytest.mark.parametrize('expert', ['ffn', 'conv'])
def test_put_into_a_trained_detector(name, after, layers, expert):
    """It stays what it was, and its copy, too; the experts can be trained."""
    moe, dense = detectors(
        name, after=after, num_experts=3, top_k=1, expert=expert,
        hidden_channels=4, identity_at_start=True)
    if layers is not None:
        assert list(moe_layers(moe)) == layers
    moe.init_weights()
    assert upcycle(moe, dense.state_dict()).matches
    add_noise(moe, 0.01)
    x = torch.randn(2, 3, 64, 64)
    dense.eval()
    for detector in (moe, copy.deepcopy(moe)):
        detector.eval()
        for a, b in zip(maps(dense, x), maps(detector, x)):
            torch.testing.assert_close(a, b)
    for layer in moe_layers(moe).values():
        for expert in layer.experts:
            expert[-1].bias.data += 1
    assert any(not torch.allclose(a, b)
               for a, b in zip(maps(dense, x), maps(moe, x)))


def maps(detector, x):
    features = detector.extract_feat(x)
    outs = [features] if hasattr(detector, 'roi_head') else (
        detector.bbox_head(features))
    return [level for out in outs if out[0] is not None for level in out]


@pytest.mark.parametrize('options, message', [
    (dict(after='bbox_head'), 'RetinaHead is a head'),
    (dict(after='bbox_head.cls_convs'), 'ModuleList is a list'),
    (dict(after='backbone.bn1'), 'a module with a convolution'),
    (dict(after='neck', expert='mlp'), "after='neck': expert='mlp'.*'ffn'"),
    (dict(after='neck', expert='conv', scope=dict(type='PositionScope')),
     'look at no neighbour'),
    (dict(after='neck', at='neck'), "'at' or 'after'"),
    (dict(after='neck', hiden_channels=4), 'moe.hiden_channels=4'),
])
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        detectors('retinanet', **options)
