import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from twins import decided

from mmdet_moe.layers import (
    LossFreeBias,
    MeanImportance,
    MoELayer,
    RelativeImportance,
)
from mmdet_moe.layers.hard_constraints import overused


def observe_and_step(constraint, *importances):
    for importance in importances:
        # what is observed of both: the same
        constraint.observe(*[torch.tensor(importance)] * 2)
    constraint.step()


def test_relative_importance_by_hand():
    constraint = RelativeImportance(num_experts=4, top_k=1, threshold=0.3)
    # mean 2: (3 - 2) / 2 = 0.5, 0.1, -0.1, -0.5
    observe_and_step(constraint, [3.0, 2.2, 1.8, 1.0])
    assert torch.allclose(constraint.relative_importance,
                          torch.tensor([0.5, 0.1, -0.1, -0.5]))
    assert constraint.masked().tolist() == [True, False, False, False]
    # a running sum: mean 1, so -1, 1, 0.5, -0.5 is added
    observe_and_step(constraint, [0.0, 2.0, 1.5, 0.5])
    assert torch.allclose(constraint.relative_importance,
                          torch.tensor([-0.5, 1.1, 0.4, -1.0]))
    assert constraint.masked().tolist() == [False, True, True, False]


def test_mean_importance_by_hand():
    constraint = MeanImportance(num_experts=2, top_k=1, threshold=0.1)
    observe_and_step(constraint, [8.0, 2.0])  # I / N = 0.8, 0.2
    observe_and_step(constraint, [2.0, 2.0])  # 0.5, 0.5
    # running mean 0.65; 0.65 - 1/2 = 0.15 > 0.1
    assert torch.allclose(constraint.mean_importance,
                          torch.tensor([0.65, 0.35]))
    assert constraint.masked().tolist() == [True, False]
    observe_and_step(constraint, [0.0, 5.0])
    assert constraint.mean_importance[0].item() == pytest.approx(1.3 / 3)


def test_accumulated_passes_are_one_step():
    once, twice = (RelativeImportance(2, 1) for _ in range(2))
    observe_and_step(once, [4.0, 2.0])
    observe_and_step(twice, [3.0, 0.0], [1.0, 2.0])
    assert torch.equal(once.relative_importance, twice.relative_importance)
    twice.step()  # nothing seen since: nothing moves
    assert torch.equal(once.relative_importance, twice.relative_importance)


def test_at_least_k_experts_stay():
    usage = torch.tensor([0.9, 0.5, 0.7, 0.1])
    assert overused(usage, 0.3, 1).tolist() == [True, True, True, False]
    # one is free; the least used of the others comes back
    assert overused(usage, 0.3, 2).tolist() == [True, False, True, False]
    assert overused(usage, 0.0, 4).tolist() == [False] * 4


def test_loss_free_bias_by_hand():
    layer = MoELayer(
        lambda: nn.Conv2d(2, 2, 1), 2, num_experts=3, top_k=1,
        hard_constraint=dict(type='LossFreeBias', rate=0.4))
    layer.gate.fc_weight.data.zero_()
    layer.gate.fc_bias.data = torch.tensor([1.0, 0.5, 0.0])
    x = torch.zeros(6, 2, 3, 3)
    # loads 6, 0, 0 of mean 2: the biases become -0.4, 0.4, 0.4
    assert decided(layer, x).experts.flatten().tolist() == [0] * 6
    summary = layer.collect()
    assert summary.total_load.tolist() == [6, 0, 0]
    layer.step()
    torch.testing.assert_close(layer.hard_constraint.selection_bias,
                               torch.tensor([-0.4, 0.4, 0.4]))
    # 0.6, 0.9, 0.4; the weight is that of the logits alone, in evaluation, too
    for mode in (True, False):
        routing = decided(layer.train(mode), x)
        assert routing.experts.flatten().tolist() == [1] * 6
        assert routing.weights[0].tolist() == [0, 1, 0]
        assert routing.changed.all() and not routing.masked.any()
    # by importance: 5, 1, 0 of mean 2
    constraint = LossFreeBias(3, 1, rate=0.4, balances='importance')
    constraint.observe(torch.tensor([5.0, 1, 0]), torch.tensor([2.0, 2, 2]))
    constraint.step()
    torch.testing.assert_close(constraint.selection_bias,
                               torch.tensor([-0.4, 0.4, 0.4]))
    with pytest.raises(ValueError, match='LoadLoss.*does not know of a bias'):
        MoELayer(lambda: nn.Conv2d(2, 2, 1), 2, noise=True,
                 soft_constraint=dict(type='LoadLoss'),
                 hard_constraint=dict(type='LossFreeBias'))


def test_a_gate_that_is_not_trained_can_be_balanced():
    torch.manual_seed(0)
    layer = MoELayer(
        lambda: nn.Linear(8, 8), 8, num_experts=4, top_k=1,
        scope=dict(type='RowScope'), gate=dict(type='RandomGate'),
        hard_constraint=dict(type='LossFreeBias', rate=0.02))
    x = torch.randn(200, 8) + 2
    loads = []
    for _ in range(150):
        layer(x)
        loads.append(layer.collect().total_load)
        layer.step()
    # 50 each; a step of 0.02 moves a few samples too many
    assert loads[0].max() > 100 and (loads[-1] - 50).abs().max() < 10


@pytest.mark.parametrize('kind', [RelativeImportance, MeanImportance])
def test_state_is_saved(kind):
    trained, resumed = kind(3, 1), kind(3, 1)
    observe_and_step(trained, [3.0, 1.0, 1.0])
    resumed.load_state_dict(trained.state_dict())
    for constraint in (trained, resumed):
        observe_and_step(constraint, [1.0, 2.0, 4.0])
    assert torch.equal(trained.usage(), resumed.usage())


@pytest.mark.parametrize('lift_at, lifted', [
    (None, [False, False, False]),
    (dict(epoch=2), [False, False, True]),
    (dict(iter=5), [False, True, True]),
])
def test_lifting(lift_at, lifted):
    constraint = RelativeImportance(2, 1, lift_at=lift_at)
    observe_and_step(constraint, [3.0, 1.0])
    assert constraint.masked().tolist() == [True, False]
    found = []
    for epoch, iteration in ((0, 0), (1, 5), (2, 10)):
        constraint.progress(epoch=epoch, iteration=iteration)
        found.append(constraint.lifted)
        assert constraint.masked().any() != constraint.lifted
    assert found == lifted


def always_first(**options):
    """Two experts; the gate prefers the first for every sample."""
    layer = MoELayer(
        lambda: nn.Conv2d(2, 2, 1), 2, num_experts=2, top_k=1,
        hard_constraint=dict(type='RelativeImportance', **options))
    layer.gate.fc_weight.data.zero_()
    layer.gate.fc_bias.data = torch.tensor([1.0, 0.0])
    return layer


def test_per_call_or_per_step():
    levels = [torch.zeros(2, 2, s, s) for s in (4, 2, 1)]
    # All of a level to one expert: R moves by (2 - 1) / 1 = 1 and -1, for each
    # of the three levels, and only at the step.
    per_call = always_first(paper_per_call=True)
    assert decided(per_call, levels).experts.flatten().tolist() == [0] * 6
    summary = per_call.collect()
    assert summary.masked.tolist() == [0, 0]
    assert per_call.hard_constraint.relative_importance.tolist() == [0, 0]
    per_call.step()
    assert per_call.hard_constraint.relative_importance.tolist() == [3, -3]
    # 2 of 2 samples, then 1 of 2: M = (1 + 1 / 2) / 2, as of two steps.
    mean = MeanImportance(2, 1, paper_per_call=True)
    mean.observe(torch.tensor([[2., 0], [1, 1], [0, 0]]), torch.zeros(3, 2))
    mean.step()
    assert mean.mean_importance.tolist() == [0.75, 0.25] and mean.steps == 2

    # Activation checkpointing runs the calls again, which changes nothing.
    again = always_first(paper_per_call=True)
    outputs = [checkpoint(again, x, use_reentrant=False) for x in levels]
    again.collect()
    sum(y.sum() for y in outputs).backward()
    again.step()
    assert again.hard_constraint.relative_importance.tolist() == [3, -3]

    per_step = always_first()
    assert decided(per_step, levels).experts.flatten().tolist() == [0] * 6
    per_step.collect()
    per_step.step()
    assert per_step.hard_constraint.relative_importance.tolist() == [1, -1]
    assert decided(per_step, levels).experts.flatten().tolist() == [1] * 6
    assert per_step.collect().changed == 1
