import pytest
import torch

from mmdet_moe.layers import MeanImportance, RelativeImportance
from mmdet_moe.layers.hard_constraints import overused


def observe_and_step(constraint, *importances):
    for importance in importances:
        constraint.observe(torch.tensor(importance))
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


@pytest.mark.parametrize('kind', [RelativeImportance, MeanImportance])
def test_state_is_saved(kind):
    trained, resumed = kind(3, 1), kind(3, 1)
    observe_and_step(trained, [3.0, 1.0, 1.0])
    resumed.load_state_dict(trained.state_dict())
    for constraint in (trained, resumed):
        observe_and_step(constraint, [1.0, 2.0, 4.0])
    assert torch.equal(trained.usage(), resumed.usage())
