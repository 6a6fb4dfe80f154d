from dataclasses import replace

import pytest
import torch
from torch import nn
from twins import assert_same, decided

from mmdet_moe.layers import (
    FeedForward,
    MoELayer,
    Parallel,
    PatchScope,
    real_tokens_are,
    receptive_radius,
)
from mmdet_moe.layers.scopes import (
    ImageScope,
    LevelScope,
    PositionScope,
    RowScope,
)


def subnet(dilation=1):
    return nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=dilation, dilation=dilation),
        nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 5, padding=2),
        nn.ReLU(), nn.Conv2d(5, 3, 1))


@pytest.mark.parametrize('expert', [
    lambda: nn.Conv2d(4, 3, 3, padding=1),
    subnet,
    lambda: subnet(dilation=3),
    lambda: nn.Conv2d(4, 3, 4, padding='same'),
    lambda: Parallel(dict(a=subnet(), b=nn.Conv2d(4, 2, 7, padding=3))),
], ids=['conv', 'subnet', 'dilated', 'even', 'parallel'])
@pytest.mark.parametrize('grid', [1, 2, 3, 5])
def test_one_expert_on_patches_is_the_plain_layer(expert, grid):
    layer = MoELayer(
        expert,
        4,
        num_experts=1,
        top_k=1,
        scope=dict(type='PatchScope', grid=grid)).eval()
    for size in ((12, 12), (13, 7), (5, 6), (1, 1), (2, 31)):
        x = torch.randn(2, 4, *size)
        plain = layer.experts[0](x)
        assert torch.allclose(layer(x), plain, atol=1e-5), size


def test_halo_is_as_wide_as_the_expert_looks():
    # 3x3 with dilation 3 sees 3 beyond, 5x5 another 2, 1x1 none.
    assert receptive_radius(subnet(dilation=3)) == 5
    assert receptive_radius(Parallel(dict(a=subnet(3), b=subnet()))) == 5


def test_a_patch_is_routed_by_what_is_in_it():
    # Positive on the left, negative on the right; the gate is the sign.
    layer = MoELayer(
        lambda: nn.Conv2d(1, 1, 1),
        1,
        num_experts=2,
        top_k=1,
        scope=dict(type='PatchScope', grid=2))
    layer.gate.fc_weight.data = torch.tensor([[9.0], [-9.0]])
    layer.gate.fc_bias.data.zero_()
    x = torch.ones(1, 1, 4, 6)
    x[..., 3:] = -1
    # patches in reading order: left, right, left, right
    assert decided(layer, x).experts.flatten().tolist() == [0, 1, 0, 1]


def test_what_a_sample_is():
    shapes = [(2, 5, 4), (2, 1, 2)]
    assert LevelScope().sizes(shapes) == [2, 2]
    assert ImageScope().sizes(shapes) == [2]
    # 2 images x 9 patches; 2 images x 1 row x 2 columns
    assert PatchScope(grid=3).sizes(shapes) == [18, 4]
    assert PatchScope(grid=3).entries(shapes).tolist() == (
        [0] * 9 + [1] * 9 + [0, 0, 1, 1])
    assert PositionScope().sizes(shapes) == [40, 4]
    assert PositionScope().entries(shapes).tolist() == (
        [0] * 20 + [1] * 20 + [0, 0, 1, 1])
    assert RowScope().sizes([(7, ), (2, 5)]) == [7, 10]
    assert RowScope().entries([(3, ), (2, 2)]).tolist() == [
        0, 1, 2, 0, 0, 1, 1]


def test_rows_and_tokens_are_samples():
    """As if the layer were called for each of them alone."""
    layer = MoELayer(lambda: nn.Linear(6, 5), 6, num_experts=3, top_k=2,
                     scope=dict(type='RowScope'))
    nn.init.normal_(layer.gate.fc_weight, std=5)
    rows, tokens = torch.randn(7, 6), torch.randn(2, 4, 6)
    assert_same(layer, [rows, tokens])
    alone = [torch.cat([layer(x[None]) for x in t.flatten(0, -2)])
             for t in (rows, tokens)]
    y, z = layer([rows, tokens])
    assert y.shape == (7, 5) and z.shape == (2, 4, 5)
    torch.testing.assert_close(y, alone[0])
    torch.testing.assert_close(z.flatten(0, 1), alone[1])
    assert layer(torch.zeros(0, 6)).shape == (0, 5)
    for out in (layer(rows), *layer([rows, tokens])):
        out.relu_()  # as an activation after the layer does
    with pytest.raises(ValueError, match="gate.type='ConvGAPGate'"):
        MoELayer(lambda: nn.Linear(6, 5), 6, scope=dict(type='RowScope'),
                 gate=dict(type='ConvGAPGate'))


def pointwise():
    return nn.Sequential(nn.Conv2d(6, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))


@pytest.mark.parametrize('expert', [lambda: FeedForward(6, 8), pointwise],
                         ids=['ffn', 'conv'])
@pytest.mark.parametrize('channels_last', [False, True])
def test_positions_are_samples(expert, channels_last):
    """As if the layer were called with each position as a picture."""
    layer = MoELayer(expert, 6, num_experts=3, top_k=2,
                     scope=dict(type='PositionScope'))
    nn.init.normal_(layer.gate.fc_weight, std=5)
    levels = [torch.randn(2, 6, 5, 4), torch.randn(2, 6, 3, 1)]
    if channels_last:
        levels = [x.to(memory_format=torch.channels_last) for x in levels]
    assert_same(layer, levels)
    for x, y in zip(levels, layer(levels)):
        assert y.shape[0] == 2 and y.shape[2:] == x.shape[2:]
        alone = layer(x.movedim(1, -1).reshape(-1, 6, 1, 1))
        torch.testing.assert_close(
            y.movedim(1, -1).flatten(0, 2), alone.flatten(1))
        y.relu_()


def test_a_position_is_found_by_the_centre_of_a_box():
    layer = MoELayer(lambda: FeedForward(1), 1, num_experts=2, top_k=1,
                     scope=dict(type='PositionScope')).eval()
    layer.gate.fc_weight.data = torch.tensor([[9.0], [-9.0]])
    layer.gate.fc_bias.data.zero_()
    x = torch.ones(2, 1, 3, 4)
    x[1, 0, 2, 1] = -1  # of the second picture
    decision = replace(
        layer.decide([torch.ones(2, 1, 2, 2), x]), levels=(0, 1)).part(
            1, 2, extent=(6.0, 8.0))  # a position is 2 x 2 pixels of level 1
    boxes = torch.tensor([[2.0, 4, 4, 6], [2, 4, 4, 6], [0, 0, 4, 6]])
    found = decision.at(boxes, torch.tensor([1, 0, 1])).argmax(dim=1)
    assert found.tolist() == [1, 0, 0]
    assert decision.grid(1).shape == (3, 4)
    assert decision.weights[decision.grid(1)][2, 1].argmax() == 1


@pytest.mark.parametrize('expert, found', [
    (lambda: nn.Conv2d(4, 4, 3, padding=1), 'Conv2d'),
    (lambda: nn.Conv2d(4, 4, 1, stride=2), 'Conv2d'),
    (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)),
     'GroupNorm'),
])
def test_experts_with_neighbours_cannot_be_run_on_positions(expert, found):
    with pytest.raises(
            ValueError, match=f'scope=PositionScope: .* is {found}.*LevelS'):
        MoELayer(expert, 4, scope=dict(type='PositionScope'))


def test_padding_does_not_count():
    """Two real tokens for expert 0, one for expert 1; padding for expert 1."""
    layer = MoELayer(lambda: nn.Linear(1, 1), 1, num_experts=2, top_k=1,
                     scope=dict(type='RowScope'),
                     soft_constraint=dict(type='SwitchLoss'))
    layer.gate.fc_weight.data = torch.tensor([[9.0], [-9.0]])
    layer.gate.fc_bias.data.zero_()
    x = torch.tensor([[1.0, 1, -1], [-1, -1, -1]])[..., None]
    with real_tokens_are(torch.tensor([[True] * 3, [False] * 3])):
        y = layer(x)
    summary = layer.collect()
    assert summary.importance.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert summary.share.tolist() == pytest.approx([2 / 3, 1 / 3])
    assert torch.equal(y, layer(x))


def test_totals_over_samples():
    maps = [torch.ones(2, 5, 4), 2 * torch.ones(2, 1, 2)]
    assert LevelScope().total(maps).tolist() == [20, 20, 4, 4]
    assert ImageScope().total(maps).tolist() == [24, 24]
    assert PositionScope().total(maps).tolist() == [1] * 40 + [2] * 4
    # 5 rows into 2 and 3, 4 columns into 2 and 2; then 1 x 2 positions of 2
    assert PatchScope(grid=2).total(maps).tolist() == [4, 4, 6, 6] * 2 + [2] * 4


def test_one_decision_for_all_levels():
    layer = MoELayer(
        lambda: nn.Conv2d(2, 2, 1), 2, scope=dict(type='ImageScope'))
    levels = [torch.randn(3, 2, 4, 4), torch.randn(3, 2, 2, 2)]
    logits = decided(layer, levels).logits
    pooled = torch.stack([x.mean(dim=(2, 3)) for x in levels]).mean(dim=0)
    expected = pooled @ layer.gate.fc_weight.T + layer.gate.fc_bias
    assert torch.allclose(logits, expected, atol=1e-6)


def test_one_decision_for_levels_that_come_one_by_one_is_an_error():
    layer = MoELayer(
        lambda: nn.Conv2d(2, 2, 1),
        2,
        scope=dict(type='ImageScope'),
        soft_constraint=dict(type='KLLoss'))
    for size in (4, 2):
        layer(torch.randn(3, 2, size, size))
    with pytest.raises(RuntimeError, match="scope=ImageScope.*LevelScope"):
        layer.collect()


@pytest.mark.parametrize('expert, found', [
    (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4)),
     'GroupNorm'),
    (lambda: nn.Conv2d(4, 4, 3, stride=2, padding=1), 'Conv2d'),
    (lambda: nn.Conv2d(4, 4, 3), 'Conv2d'),
    (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.MaxPool2d(2)), 'MaxPool2d'),
    (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode='circular'),
     'Conv2d'),
])
def test_experts_that_cannot_be_run_on_patches(expert, found):
    with pytest.raises(
            ValueError, match=f'scope=PatchScope: .* is {found}.*LevelSc'):
        MoELayer(expert, 4, scope=dict(type='PatchScope'))
