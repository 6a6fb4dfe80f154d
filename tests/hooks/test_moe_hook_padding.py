"""Padding of a decoder and its balance, in a training step of a detector."""
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.optim import OptimWrapper

sys.path.append(str(Path(__file__).parents[1] / 'models'))
from stock import build, pictures, stock

from mmdet_moe.hooks import MoEHook
from mmdet_moe.layers import moe_layers, traced
from mmdet_moe.layers.padding import real_tokens

BOXES = [[8., 8., 40., 40.], [20., 30., 70., 60.], [5., 50., 30., 75.]]


@pytest.fixture
def dino():
    """DINO with experts in decoder and head, at the start of a training."""
    model = stock('dino')
    model.update(
        type='MoEDetector',
        detector=model.type,
        experts=[
            dict(at=['decoder.layers.*.ffn', 'bbox_head.cls_branches.*'],
                 num_experts=4,
                 hard_constraint=dict(type='RelativeImportance'))
        ])
    detector = build(model).train()
    optimizer = OptimWrapper(torch.optim.SGD(detector.parameters(), lr=0.1))
    runner = SimpleNamespace(model=detector, optim_wrapper=optimizer)
    MoEHook().before_train(runner)
    return runner


def test_padding_does_not_count(dino):
    detector, optimizer = dino.model, dino.optim_wrapper
    queries, pixels = [], []
    detector.decoder.register_forward_pre_hook(
        lambda _, args, kwargs: queries.append(kwargs['query']),
        with_kwargs=True)
    detector.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: pixels.append(kwargs['key_padding_mask']),
        with_kwargs=True)
    inputs, samples = pictures([BOXES, BOXES[:1]])
    with traced(detector) as decisions:
        losses = detector(inputs, samples, mode='loss')
    optimizer.update_params(detector.parse_losses(losses)[0])
    # The generator leaves the queries zero that fill up the second picture.
    real = ~(queries[0] == 0).all(dim=-1)
    # 24 // 3 objects = 8 groups of 2 x 3 queries, or 2 x 1; and 30 others.
    assert real.shape == (2, 78) and real.sum(dim=1).tolist() == [78, 46]
    proposing = f'bbox_head.cls_branches.{detector.decoder.num_layers}'
    for name, layer in moe_layers(detector).items():
        counts = ~pixels[0] if name == proposing else real
        weights = decisions[name][0].weights.view(*counts.shape, 4)
        importance = weights[counts].sum(dim=0)
        # The first step of R_e = (I_e - mean) / mean.
        torch.testing.assert_close(layer.hard_constraint.relative_importance,
                                   importance / importance.mean() - 1)
        everything = weights.sum(dim=(0, 1))
        assert not torch.allclose(importance / importance.mean(),
                                  everything / everything.mean())


def test_what_is_real_does_not_outlive_an_exception(dino):
    detector = dino.model
    seen = []

    def fail(*_):
        seen.append(real_tokens((2, 78)))
        raise KeyError

    inputs, samples = pictures([BOXES, BOXES[:1]])
    detector.decoder.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(KeyError):
        detector(inputs, samples, mode='loss')
    assert seen[0].sum() == 78 + 46
    assert real_tokens((2, 78)) is None
