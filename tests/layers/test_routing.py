import math

import pytest
import torch

from mmdet_moe.layers import top_k_routing
from mmdet_moe.layers.routing import sigmoid


def test_softmax_over_the_selected_only():
    # exp(ln 3) : exp(ln 1) = 3 : 1; the third logit must not count.
    routing = top_k_routing(
        torch.tensor([[0.0, math.log(3), -1.0]]), top_k=2)
    assert torch.allclose(routing.weights, torch.tensor([[0.25, 0.75, 0.0]]))
    assert routing.experts.tolist() == [[1, 0]]


def test_sigmoids_of_the_selected_divided_by_their_sum():
    # sigmoid(ln 3) = 3/4, sigmoid(0) = 1/2
    routing = top_k_routing(
        torch.tensor([[0.0, math.log(3), -1.0]]), top_k=2, function=sigmoid)
    assert torch.allclose(routing.weights, torch.tensor([[0.4, 0.6, 0]]))
    tiny = top_k_routing(torch.tensor([[-200.0, -200.0]]), 2, function=sigmoid)
    assert tiny.weights.tolist() == [[0.5, 0.5]]


def test_a_bias_selects_and_does_not_weigh():
    # 0 + 2 and ln 3 are the largest two; weights 1/4 and 3/4 without the bias
    routing = top_k_routing(
        torch.tensor([[0.0, math.log(3), 1.0]]), top_k=2,
        bias=torch.tensor([2.0, 0.0, -0.5]))
    assert routing.experts.tolist() == [[0, 1]]
    assert torch.allclose(routing.weights, torch.tensor([[0.25, 0.75, 0]]))
    assert routing.changed.tolist() == [True]


def test_ties_go_to_the_lower_index():
    for experts in (5, 20):  # sorted, and looked for one by one
        routing = top_k_routing(torch.zeros(3, experts), top_k=2)
        assert routing.experts.tolist() == [[0, 1]] * 3


@pytest.mark.parametrize('lost', [0.0, 0.98])
def test_a_few_out_of_many_are_those_of_sorting(lost):
    """Also where fewer than K have a finite logit."""
    logits = torch.randint(9, (200, 64)).float()
    logits[torch.rand(logits.shape) < lost] = float('-inf')
    order = logits.sort(dim=1, descending=True, stable=True).indices
    routing = top_k_routing(logits, top_k=3)
    assert torch.equal(routing.experts, order[:, :3])


def test_masked_experts_are_not_chosen():
    logits = torch.tensor([[5.0, 1.0, 4.0, 0.0]])
    masked = torch.tensor([True, False, True, False])
    routing = top_k_routing(logits, top_k=2, masked=masked)
    assert routing.experts.tolist() == [[1, 3]]
    # softmax(1, 0) = 1 / (1 + e^-1) = 0.7311
    assert torch.allclose(
        routing.weights, torch.tensor([[0, 0.7311, 0, 0.2689]]), atol=1e-4)


def test_rows_sum_to_one_and_have_k_entries():
    for experts in (1, 2, 7):
        for top_k in range(1, experts + 1):
            weights = top_k_routing(torch.randn(50, experts), top_k).weights
            assert torch.allclose(weights.sum(dim=1), torch.ones(50))
            assert ((weights > 0).sum(dim=1) == top_k).all()
