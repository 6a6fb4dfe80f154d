"""What is to be done, by hand."""
import torch

from mmdet_moe.layers.plan import make_plans


def test_plans():
    mixed, alone, weak, nothing = make_plans([
        torch.tensor([[0, 0.4, 0.6], [0, 1, 0], [0, 0, float('nan')]]),
        torch.tensor([[0.0, 1, 0], [0, 1, 0]]),
        torch.tensor([[0.0, 0.5, 0]]),
        torch.zeros(0, 3)
    ])
    assert rows(mixed) == {1: [0, 1], 2: [0, 2]}
    assert rows(alone) == {1: [0, 1]}
    assert rows(weak) == {1: [0]}
    assert rows(nothing) == {}
    # row 0 has experts 1 and 2 at 1 and 2, row 1 has 1 at 4, row 2 has 2 at 8
    assert mixed.entries.tolist() == [1, 4, 2, 8]
    plans = (mixed, alone, weak, nothing)
    assert [plan.pairs for plan in plans] == [4, 2, 1, 0]
    assert [plan.direct for plan in plans] == [None, 1, None, None]


def rows(plan):
    return {e: r.tolist() for e, r in plan.rows.items()}
