import pytest
import torch
from torch import nn

from mmdet_moe.layers import MoELayer, Parallel, receptive_radius
from mmdet_moe.layers.scopes import ImageScope, LevelScope, PatchScope


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
    layer.gate.weight.data = torch.tensor([[9.0], [-9.0]])
    layer.gate.bias.data.zero_()
    x = torch.ones(1, 1, 4, 6)
    x[..., 3:] = -1
    layer(x)
    # patches in reading order: left, right, left, right
    assert layer.routing.experts.flatten().tolist() == [0, 1, 0, 1]
    grid, = layer.grids(layer.routing.weights)
    assert grid[0, :, :, 0].tolist() == [[1, 1, 1, 0, 0, 0]] * 4


def test_where_a_decision_holds():
    # 4 rows into 1, 1 and 2
    levels = [torch.zeros(1, 3, 4, 1)]
    rows = torch.tensor([[0.0], [1.0], [2.0]])
    grid, = PatchScope(grid=3).grids(rows, levels)
    assert grid.flatten().tolist() == [0, 1, 2, 2]
    assert LevelScope().grids(rows[:1], levels)[0].shape == (1, 1, 1, 1)


def test_what_a_sample_is():
    levels = [torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 1, 2)]
    assert LevelScope().sizes(levels) == [2, 2]
    assert ImageScope().sizes(levels) == [2]
    # 2 images x 9 patches; 2 images x 1 row x 2 columns
    assert PatchScope(grid=3).sizes(levels) == [18, 4]


def test_totals_over_samples():
    maps = [torch.ones(2, 5, 4), 2 * torch.ones(2, 1, 2)]
    assert LevelScope().total(maps).tolist() == [20, 20, 4, 4]
    assert ImageScope().total(maps).tolist() == [24, 24]
    # 5 rows into 2 and 3, 4 columns into 2 and 2; then 1 x 2 positions of 2
    assert PatchScope(grid=2).total(maps).tolist() == [4, 4, 6, 6] * 2 + [2] * 4


def test_one_decision_for_all_levels():
    layer = MoELayer(
        lambda: nn.Conv2d(2, 2, 1), 2, scope=dict(type='ImageScope'))
    levels = [torch.randn(3, 2, 4, 4), torch.randn(3, 2, 2, 2)]
    layer(levels)
    pooled = torch.stack([x.mean(dim=(2, 3)) for x in levels]).mean(dim=0)
    expected = pooled @ layer.gate.weight.T + layer.gate.bias
    assert torch.allclose(layer.routing.logits, expected, atol=1e-6)


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
    with pytest.raises(ValueError, match=f"scope=PatchScope='{found}.*LevelSc"):
        MoELayer(expert, 4, scope=dict(type='PatchScope'))
