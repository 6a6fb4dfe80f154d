"""Which decision a box is under, by hand and against where it was made."""
from dataclasses import replace

import pytest
import torch
from torch import nn

from mmdet_moe.layers import MoELayer, join, traced


def layer(expert=lambda: nn.Conv2d(1, 1, 1), **options):
    """Two experts: 0 for what is positive, 1 for what is negative."""
    moe = MoELayer(expert, 1, num_experts=2, top_k=1, **options)
    moe.gate.fc_weight.data = torch.tensor([[9.0], [-9.0]])
    moe.gate.fc_bias.data.zero_()
    return moe


def decide(moe, *calls):
    with traced(nn.ModuleDict(dict(moe=moe))) as decisions:
        for x in calls:
            moe(x)
    return join(decisions['moe'])


def boxes(*centres):
    """Of two pixels each, at x, y."""
    return torch.tensor([[x - 1.0, y - 1, x + 1, y + 1] for x, y in centres])


def signs(*rows):
    """A map (1, 1, H, W) of the signs in some strings."""
    return torch.tensor([[1.0 if c == '+' else -1.0 for c in row]
                         for row in rows])[None, None]


def test_a_box_is_under_the_decision_of_its_level():
    both = torch.cat([signs('++'), signs('--')]), torch.cat(
        [signs('-'), signs('+')])
    moe = layer()
    for decision in (decide(moe, both), decide(moe, *both)):
        first, second = (
            decision.part(b, b + 1, levels=(0, 1), extent=(8.0, 8.0))
            for b in (0, 1))
        where = boxes((1, 1), (1, 1), (1, 1)), torch.tensor([0, 1, -1])
        assert first.find(*where).tolist() == [0, 1, -1]
        assert first.at(*where)[:2].tolist() == [[1, 0], [0, 1]]
        assert first.at(*where)[2].isnan().all()
        assert second.at(*where)[:2].tolist() == [[0, 1], [1, 0]]


def test_one_map_is_about_everything_or_about_its_level():
    decision = decide(layer(), [signs('-')])
    where = boxes((1, 1), (1, 1)), torch.tensor([-1, 2])
    assert decision.at(*where).tolist() == [[0, 1], [0, 1]]
    own = decision.part(0, 1, levels=(2, ))
    assert own.find(*where).tolist() == [-1, 0]


def test_a_decision_about_all_levels_needs_no_level():
    """As for objects that no rule puts on a level (FSAF, AutoAssign)."""
    both = torch.cat([signs('++'), signs('--')]), torch.cat(
        [signs('+'), signs('-')])
    decision = replace(
        decide(layer(scope=dict(type='ImageScope')), both), levels=(0, 1))
    one = decision.part(1, 2, extent=(8, 8))
    unknown = torch.tensor([-1])
    assert one.at(boxes((4, 4)), unknown).tolist() == [[0, 1]]
    assert decide(layer(), both).part(0, 1).at(
        boxes((4, 4)), unknown).isnan().all()


def test_a_box_is_under_the_patch_that_its_centre_is_in():
    moe = layer(scope=dict(type='PatchScope', grid=2))
    # 4 rows and 5 columns into 2 + 2 and 2 + 3; then 1 x 2 positions
    x = [signs('++---', '++---', '--+++', '--+++'), signs('+-')]
    decision = decide(moe, x).part(0, 1, levels=(0, 1), extent=(40.0, 50.0))
    # an eighth of the picture's width is still in column 0, of 2
    at = boxes((5, 5), (19, 19), (21, 19), (19, 21), (49, 39), (60, 99))
    zero = torch.zeros(6, dtype=torch.long)
    assert decision.find(at, zero).tolist() == [0, 0, 1, 2, 3, 3]
    assert decision.at(at, zero)[:, 0].tolist() == [1, 1, 0, 0, 1, 1]
    assert decision.find(at, zero + 1).tolist() == [4, 4, 4, 4, 5, 5]
    assert decision.grid(0).tolist() == [
        [0, 0, 1, 1, 1], [0, 0, 1, 1, 1], [2, 2, 3, 3, 3], [2, 2, 3, 3, 3]]
    assert decision.grid(1).tolist() == [[4, 5]]
    assert decision.places().tolist() == [0, 0, 0, 0, 1, 1]  # the level
    # four positions of patch 0, and two of patch 1
    third = decision.over(torch.tensor([[0.0, 0, 30, 20]]), zero[:1])
    assert third[0].tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize('grid', [1, 2, 3, 5])
@pytest.mark.parametrize('size', [(7, 5), (2, 9), (1, 1), (12, 4)])
def test_every_position_is_found_where_it_was_decided(grid, size):
    """The number of its patch, written on every position of a patch."""
    moe = layer(scope=dict(type='PatchScope', grid=grid))
    x = torch.zeros(1, 1, *size)
    decision = decide(moe, [x, x]).part(0, 1, levels=(0, 1),
                                        extent=(float(size[0]), float(size[1])))
    pieces = moe.scope.cut([x, x])
    numbered = moe.scope.join(
        [torch.arange(len(p)).view(-1, 1, 1, 1).expand_as(p) for p in pieces],
        decision.shapes)
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size),
                          indexing='ij')
    at = torch.stack([x, y, x, y], dim=-1).view(-1, 4)
    found = decision.find(at, torch.ones(len(at), dtype=torch.long))
    assert torch.equal(found, numbered[1].flatten() + len(pieces[0]))


def test_regions_and_queries():
    rows = dict(scope=dict(type='RowScope'), expert=lambda: nn.Linear(1, 1))
    signs_of = torch.tensor([1.0, -1, 1, 1, -1, -1])[:, None]
    at = boxes((1, 1), (1, 1), (1, 1), (1, 1))
    items = torch.tensor([2, 0, -1, 3])
    # (B, T, C) tokens: the item is the query
    tokens = decide(layer(**rows), signs_of.view(2, 3, 1))
    assert tokens.part(1, 2).find(at, items=items).tolist() == [2, 0, -1, -1]
    assert tokens.part(1, 2).at(at, items=items)[:2, 0].tolist() == [0, 1]
    # (n, C) rows or (n, C, H, W) maps of the regions of two pictures
    for regions in (decide(layer(**rows), signs_of),
                    decide(layer(), [signs_of[..., None, None]])):
        second = regions.part(3, 6, about='items')
        assert second.find(at, items=items).tolist() == [2, 0, -1, -1]
        assert second.at(at, items=items)[:2, 0].tolist() == [0, 1]
        none = regions.part(3, 3, about='items')
        assert none.find(at, items=items).tolist() == [-1] * 4
        assert none.at(at, items=items).shape == (4, 2)


def test_a_patch_of_a_region_is_its_middle():
    """The map is the region's own, wherever in the picture the box is."""
    moe = layer(scope=dict(type='PatchScope', grid=3))
    crops = torch.cat([signs('---', '-+-', '---'), signs('+++', '+-+', '+++')])
    decision = decide(moe, [crops]).part(0, 2, about='items',
                                         extent=(90.0, 90.0))
    at = decision.at(boxes((5, 5), (85, 5)), items=torch.tensor([0, 1]))
    assert at.tolist() == [[1, 0], [0, 1]]


def test_a_decision_does_not_change():
    moe = layer()
    x = [signs('+')]
    decision = decide(moe, x)
    moe([-x[0]])
    assert decision.weights.tolist() == [[1, 0]]
    with pytest.raises(AttributeError):
        decision.extent = (1, 1)


def test_the_mean_over_a_box_is_of_the_positions_in_it():
    moe = layer(scope=dict(type='PositionScope'))
    decision = decide(moe, [signs('++--', '++--', '----', '----'),
                            signs('+')])
    decision = decision.part(0, 1, levels=(0, 1), extent=(8.0, 8.0))
    levels = torch.tensor([0, 0, 0, 1, -1])
    found = decision.over(
        torch.tensor([[0.0, 0, 4, 4], [2, 0, 6, 4], [3.5, 3.5, 3.9, 3.9],
                      [0, 0, 8, 8], [0, 0, 8, 8]]), levels)
    # all of it; half of it; no centre of a position in it: at its own centre
    assert found[:4].tolist() == [[1, 0], [0.5, 0.5], [1, 0], [1, 0]]
    assert found[4].isnan().all()  # of no level


def test_the_mean_over_a_box_is_that_at_its_centre_for_whole_maps():
    decision = decide(layer(), [signs('+-')]).part(0, 1, levels=(0, ))
    where = boxes((0.2, 0.5)), torch.tensor([0])
    assert decision.over(*where).tolist() == decision.at(*where).tolist()
