"""Gates decide from an image's own part of a padded map."""
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.decision import join
from mmdet_moe.layers.padding import Images, real_positions

C = 4


def layer(gate='GAPFCGate', scope='LevelScope', **options):
    torch.manual_seed(0)
    made = MoELayer(
        lambda: nn.Conv2d(C, C, 1), C, num_experts=3, top_k=2,
        gate=dict(type=gate),
        scope=scope if isinstance(scope, dict) else dict(type=scope), **options)
    nn.init.normal_(made.gate.fc_weight if gate != 'TwoConvGAPGate' else
                    made.gate.last_weight)
    return made


def images(*sizes, whole):
    return Images(torch.tensor(sizes, dtype=torch.float), whole)


@pytest.mark.parametrize('height, whole, size, rows', [
    (225, 320, 3, 2),  # ceil(225 / 128), as alone; 225 * 3 / 320 = 2.1
    (310, 480, 60, 39), (310, 320, 40, 39), (64, 64, 8, 8), (1, 64, 8, 1),
    (28, 70, 5, 2)])  # patches of 14
def test_positions_of_an_image(height, whole, size, rows):
    mask = real_positions(images((height, whole), whole=(whole, whole)),
                          (1, size, size))
    assert mask.sum(dim=1).tolist() == [[rows] * size]


@pytest.mark.parametrize('scope', ['LevelScope', 'ImageScope'])
@pytest.mark.parametrize('gate', ['GAPFCGate', 'ConvGAPGate', 'TwoConvGAPGate'])
def test_padding_does_not_change_a_decision(gate, scope):
    moe = layer(gate, scope).eval()
    alone = [torch.randn(1, C, 6, 4), torch.randn(1, C, 3, 2)]
    expected = moe.decide(alone).routing.weights
    padded = [torch.full((2, C, 8, 8), 7.0), torch.full((2, C, 4, 4), 7.0)]
    for x, part in zip(padded, alone):
        x[:1, :, :part.shape[2], :part.shape[3]] = part
    moe.images = images((48, 32), (64, 64), whole=(64, 64))
    found = moe.decide(padded).routing.weights
    torch.testing.assert_close(found[::2], expected, rtol=0, atol=1e-5)
    # an image as large as the batch decides as before, bit by bit
    moe.images = None
    assert torch.equal(moe.decide(padded).routing.weights[1::2], found[1::2])


def test_patches_and_positions_of_padding_do_not_count():
    # Two columns of patches, of which the second is beside the first image.
    moe = layer(scope=dict(type='PatchScope', grid=2), balance_weight='area',
                soft_constraint=dict(type='KLLoss'))
    x = torch.randn(2, C, 4, 4)
    moe.images = images((32, 16), (32, 32), whole=(32, 32))
    decision = moe.decide([x])
    weights = decision.weights.detach()
    real = torch.tensor([True, False, True, False, True, True, True, True])
    assert torch.equal(decision.of_images(weights), weights[real])
    first = decision.detach().cpu().part(0, 1)
    assert first.real.tolist() == real[:4].tolist()
    assert len(join([first, first]).real) == 8
    summary = moe.collect()
    # four positions a patch
    torch.testing.assert_close(summary.total_importance,
                               4 * weights[real].sum(dim=0))
    assert summary.busy.sum() == 16


def test_checkpointing_runs_it_alike():
    moe = layer()
    moe.images = images((3, 3), (4, 4), whole=(4, 4))
    x = torch.randn(2, C, 4, 4)
    gradients = []
    for run in (moe, lambda x: checkpoint(moe, x, use_reentrant=False)):
        moe.zero_grad()
        run(x.clone().requires_grad_()).pow(2).sum().backward()
        gradients.append([p.grad.clone() for p in moe.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)


def test_gradients_end_at_the_image():
    moe = layer(soft_constraint=dict(type='KLLoss'))
    moe.images = images((2, 4), (4, 4), whole=(4, 4))
    x = torch.randn(2, C, 4, 4, requires_grad=True)
    moe.decide([x])
    sum(moe.collect().losses.values()).backward()
    assert x.grad[0, :, :2].all() and not x.grad[0, :, 2:].any()
