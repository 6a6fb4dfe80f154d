"""The sparse dispatch against the dense reference, output and gradients."""
from functools import partial

import needs
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from twins import assert_same, decided, results

from mmdet_moe.layers import (
    FeedForward,
    MoELayer,
    RememberingDispatch,
    dense_dispatch,
    sparse_dispatch,
)
from mmdet_moe.layers.dispatch import _Tie


def conv():
    return nn.Conv2d(6, 5, 3, padding=1)


def subnet():
    return nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(5, 3, 3, padding=1))


def merged_above(positions):
    return dict(type='sparse', merge_above=dict(cpu=positions))


@pytest.mark.parametrize('expert', [conv, subnet])
@pytest.mark.parametrize('experts, top_k',
                         [(e, k) for e in (1, 2, 4) for k in range(1, e + 1)])
def test_equals_dense(expert, experts, top_k):
    layer = MoELayer(expert, 6, num_experts=experts, top_k=top_k)
    assert_same(layer, [torch.randn(3, 6, 8, 7), torch.randn(3, 6, 4, 4)])


@needs.grouped_products
@pytest.mark.parametrize('experts, top_k', [(1, 1), (4, 1), (4, 2), (9, 9)])
def test_grouped_products_equal_dense(experts, top_k):
    layer = MoELayer(lambda: FeedForward(8, 16), 8, num_experts=experts,
                     top_k=top_k, scope=dict(type='PositionScope'),
                     dispatch='grouped')
    layer.gate.fc_bias.data[-1] -= 99  # the last one may get nothing
    levels = [torch.randn(2, 8, 5, 4), torch.randn(2, 8, 1, 3)]
    grouped, dense = (results(layer, levels, dispatch)
                      for dispatch in (layer.dispatch, dense_dispatch))
    for a, b in zip(grouped, dense):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert layer(torch.zeros(0, 8, 5, 4)).shape == (0, 8, 5, 4)
    with torch.autocast('cpu', torch.bfloat16):
        half = layer(levels[0])
        layer.dispatch = sparse_dispatch
        # a bias is added before or after a product is rounded
        torch.testing.assert_close(half, layer(levels[0]), rtol=0, atol=0.02)


def test_what_cannot_be_grouped():
    with pytest.raises(ValueError, match="dispatch='grouped'.*are Conv2d"):
        MoELayer(conv, 6, dispatch='grouped')
    with pytest.raises(ValueError, match="dispatch='grouped'.*with 10 channel"):
        MoELayer(lambda: FeedForward(8, 10), 8, dispatch='grouped',
                 scope=dict(type='PositionScope'))


def test_a_weight_of_zero_is_not_computed():
    layer = MoELayer(conv, 6, num_experts=3, top_k=2)
    # exp(-200) is 0 in float32
    layer.gate.fc_bias.data = torch.tensor([0.0, -200.0, -300.0])
    layer.gate.fc_weight.data.zero_()
    layer(torch.randn(2, 6, 4, 4)).sum().backward()
    assert [e.weight.grad is None for e in layer.experts] == [0, 1, 1]


@pytest.mark.parametrize('positions', [0, 1e9],
                         ids=['merged', 'gathered'])
def test_channels_last_stays_so(monkeypatch, positions):

    def last(x):
        return x.is_contiguous(memory_format=torch.channels_last)

    layer = MoELayer(conv, 6, num_experts=3, top_k=2,
                     dispatch=merged_above(positions))
    nn.init.normal_(layer.gate.fc_weight, std=5)
    layer.to(memory_format=torch.channels_last)
    x = torch.randn(4, 6, 8, 7).to(memory_format=torch.channels_last)
    assert_same(layer, [x])
    seen, run = [], nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, 'forward',
                        lambda self, x: seen.append(last(x)) or run(self, x))
    y, = layer([x])
    assert last(y) and all(seen) and bool(seen) == (positions > 0)


@pytest.mark.parametrize('positions', [0, 1e9],
                         ids=['merged', 'gathered'])
def test_derivatives(positions):
    """First and second, in float64, against finite differences."""
    experts = [conv().double() for _ in range(3)]
    x = torch.randn(2, 6, 3, 3, dtype=torch.double, requires_grad=True)
    weights = torch.rand(2, 2, dtype=torch.double, requires_grad=True)

    def mixture(x, weights, *parameters):
        # expert 1 has both samples, 0 and 2 have one each
        first = torch.tensor([1.0, 0])
        rows = torch.stack([
            weights[:, 0] * first, weights[:, 1], weights[:, 0] * (1 - first)
        ], dim=1)
        return sparse_dispatch(
            [x], [rows], experts, merge_above=dict(cpu=positions))[0]

    inputs = (x, weights, *experts[1].parameters())
    assert torch.autograd.gradcheck(mixture, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(mixture, inputs, fast_mode=True)


def test_compiled():
    layer = MoELayer(subnet, 6, num_experts=3, top_k=2)
    nn.init.normal_(layer.gate.fc_weight, std=5)
    x = torch.randn(4, 6, 5, 5)
    parameters = list(layer.parameters())
    expected, found = (
        torch.autograd.grad(run(x).pow(2).sum(), parameters)
        for run in (layer, torch.compile(layer, backend='eager')))
    for a, b in zip(found, expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('record', [
    lambda layer, x: torch.jit.trace(layer, x),
    pytest.param(lambda layer, x: torch.export.export(layer, (x, )).module(),
                 marks=needs.is_exporting)])
@pytest.mark.parametrize('top_k', [1, 2])
def test_what_is_recorded_is_right_for_other_inputs(record, top_k):
    layer = MoELayer(subnet, 6, num_experts=3, top_k=top_k).eval()
    nn.init.normal_(layer.gate.fc_weight, std=9)
    x, other = torch.randn(4, 6, 5, 5), torch.randn(4, 6, 5, 5)
    with torch.no_grad():
        recorded = record(layer, x)
        assert not torch.equal(layer.decide([x]).routing.experts,
                               layer.decide([other]).routing.experts)
        for inputs in (x, other):
            torch.testing.assert_close(recorded(inputs), layer(inputs))


def test_an_expert_that_works_in_place():
    """The features stay what they are, also if all samples are its own."""
    for experts in (1, 3):
        layer = MoELayer(
            lambda: nn.Sequential(nn.ReLU(inplace=True), conv()), 6,
            num_experts=experts, top_k=1)
        nn.init.normal_(layer.gate.fc_weight, std=5)
        x = torch.randn(5, 6, 4, 4)
        before = x.clone()
        assert_same(layer, [x])
        layer.eval()(x)
        assert torch.equal(x, before)


def test_an_expert_of_rows_that_works_in_place_later():
    """Its rows are not what they were when they are saved for the gradient."""
    layer = MoELayer(
        lambda: nn.Sequential(nn.Identity(), nn.ReLU(inplace=True),
                              nn.Linear(6, 5)), 6,
        num_experts=3, top_k=2, scope=dict(type='RowScope'))
    nn.init.normal_(layer.gate.fc_weight, std=5)
    x = [torch.randn(9, 6)]
    found = results(layer, x, sparse_dispatch)
    for expert in layer.experts:  # the reference hands x itself to each
        expert[1].inplace = False
    for a, b in zip(found, results(layer, x, dense_dispatch)):
        torch.testing.assert_close(a, b)


def test_one_sample():
    assert_same(MoELayer(subnet, 6, top_k=2), [torch.randn(1, 6, 5, 5)])


@pytest.mark.parametrize('expert', [conv, subnet])
def test_no_sample(expert):
    """As a second stage may have no regions."""
    layer = MoELayer(expert, 6, num_experts=3, top_k=2)
    assert_same(layer, [torch.randn(0, 6, 8, 8), torch.randn(0, 6, 4, 4)])


def test_experts_that_get_nothing():
    layer = MoELayer(subnet, 6, num_experts=4, top_k=2)
    layer.gate.fc_bias.data = torch.tensor([9.0, -9.0, 9.0, -9.0])
    levels = [torch.randn(4, 6, 5, 5)]
    assert_same(layer, levels)
    layer(levels)[0].sum().backward()
    assert layer.experts[1][0].weight.grad is None
    assert layer.experts[2][0].weight.grad is not None


def test_idle_batchnorm_stays_finite():
    layer = MoELayer(
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(5)), 6, top_k=1)
    layer.gate.fc_bias.data = torch.tensor([9.0, -9.0, -9.0, -9.0])
    layer(torch.randn(2, 6, 5, 5))
    for expert in layer.experts:
        assert torch.isfinite(expert[1].running_mean).all()


class Transposing(nn.Module):
    """An expert that is linear, written the other way round."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return (self.weight @ x.t()).t()


class Residual(FeedForward):
    """Adds its input, as MMCV's feed-forward networks do."""

    def forward(self, x):
        return x + super().forward(x)


ROW_EXPERTS = dict(
    ffn=lambda: FeedForward(6), linear=lambda: nn.Linear(6, 6),
    residual=lambda: Residual(6), transposing=Transposing,
    norm=lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 6)))


RUNS = dict(
    at_once=lambda run, *x: run(*x),
    reentrant=partial(checkpoint, use_reentrant=True),
    recomputed=partial(checkpoint, use_reentrant=False))


def row_gradients(dispatch, x, weights, experts, autocast=False,
                  run=RUNS['at_once']):
    """Of the experts, the rows and the weights."""
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        y = run(lambda x, w: dispatch([x], [w], experts)[0], x, weights)
    (y.float() ** 2).sum().backward()
    parameters = [p for e in experts for p in e.parameters()]
    # The sparse one does not run an expert for a weight of 0.
    gradients = [x.grad, weights.grad * (weights != 0), *(
        torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for p in parameters)]
    for p in parameters:
        p.grad = None
    return gradients


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('kind', ROW_EXPERTS)
@pytest.mark.parametrize('rows, run', [
    (6, 'at_once'), (12, 'at_once'), (12, 'reentrant'), (12, 'recomputed')])
def test_gradients_of_rows(kind, rows, run, autocast):
    """Six rows of six channels for each expert: a transpose looks alike."""
    experts = [ROW_EXPERTS[kind]() for _ in range(3)]  # the last one idle
    weights = torch.zeros(rows, 3)
    weights[:rows // 2, 0] = 1.0
    weights[rows // 2:, :2] = 0.5
    x = torch.randn(rows, 6)
    for a, b in zip(
            row_gradients(sparse_dispatch, x, weights, experts, autocast,
                          RUNS[run]),
            row_gradients(dense_dispatch, x, weights, experts, autocast)):
        assert torch.allclose(a, b, **(
            dict(rtol=0.05, atol=0.1) if autocast else dict(atol=1e-4)))


@pytest.mark.parametrize('autocast', [False, True])
@pytest.mark.parametrize('kind', ROW_EXPERTS)
def test_rows_that_are_changed_afterwards_are_an_error(kind, autocast):
    """As in a dense layer; gathered again they would be others. The rows of
    frozen features are kept by nobody else."""
    experts = [ROW_EXPERTS[kind]() for _ in range(2)]
    x, weights = torch.randn(8, 6), torch.eye(2).repeat(4, 1)
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        y, = sparse_dispatch([x], [weights], experts)
    x.mul_(2)
    # What these save is another tensor.
    if kind == 'transposing' or kind == 'residual' and autocast:
        y.float().sum().backward()
    else:
        with pytest.raises(RuntimeError, match='version 1.* version 0'):
            y.float().sum().backward()


@pytest.mark.parametrize('autocast', [False, True])
def test_rows_are_not_kept(monkeypatch, autocast):
    """The rows of the second expert are gathered, and not saved."""
    packed, hooks = [], torch.autograd.graph.saved_tensors_hooks
    monkeypatch.setattr(
        torch.autograd.graph, 'saved_tensors_hooks', lambda pack, unpack:
        hooks(lambda t: (packed.append(pack(t)), packed[-1])[1], unpack))
    experts = [nn.Linear(6, 6) for _ in range(2)]
    weights = torch.full((64, 2), 0.5)
    weights[:32, 1] = 0
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
        sparse_dispatch([torch.randn(64, 6)], [weights], experts)
    assert None in packed
    assert not any(t is not None and len(t) == 32 for t in packed)

    del packed[:]  # whoever has hooks of their own decides what is saved
    x = torch.randn(64, 6, requires_grad=True)
    checkpoint(lambda x: sparse_dispatch([x], [weights], experts)[0], x,
               use_reentrant=False)
    if hasattr(torch._C._autograd, '_top_saved_tensors_default_hooks'):
        assert not packed


@pytest.mark.parametrize('dtype', [
    pytest.param(torch.float16, marks=needs.half_on_cpu), torch.bfloat16])
def test_gradients_in_half_precision(dtype):
    """Sums over a large map, which half precision could not hold."""
    layer = MoELayer(nn.Identity, 6, num_experts=3, top_k=2)
    layer.gate.fc_bias.data = torch.tensor([9.0, 9.0, -9.0])
    x = torch.full((2, 6, 96, 96), -4.5, dtype=dtype)
    gradients = {}
    for kind in (dtype, torch.float32):
        layer.zero_grad()
        (layer(x.to(kind)).float() * 0.5 * torch.arange(6).view(6, 1, 1)
         ).sum().backward()
        gradients[kind] = layer.gate.fc_bias.grad.clone()
    assert torch.isfinite(gradients[dtype]).all()
    # Equal experts: what one weight gains the other loses.
    assert torch.allclose(gradients[dtype], torch.zeros(3), atol=1)

    experts = [nn.Conv2d(6, 6, 1).to(dtype) for _ in range(2)]
    weights = torch.tensor([[0.25, 0.75]] * 2, requires_grad=True)
    y, = sparse_dispatch([x], [weights], experts)
    (y.float() * 0.1).sum().backward()
    assert y.dtype == dtype
    with torch.no_grad():
        expected = torch.stack(
            [0.1 * e(x).float().sum(dim=(1, 2, 3)) for e in experts], dim=1)
    assert torch.allclose(weights.grad, expected, rtol=1e-2)


def test_idle_experts_are_tied_with_a_gradient_of_zero():
    idle = [nn.Parameter(torch.ones(3, dtype=torch.float16) * 6e4)]
    y = torch.ones(2, 8, 64, 64, dtype=torch.float16, requires_grad=True)
    tied = _Tie.apply(y, *idle)
    tied.backward(torch.full_like(tied, 6e4))  # its sum is not finite
    assert torch.equal(tied, y) and torch.equal(y.grad, torch.full_like(y, 6e4))
    assert idle[0].grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize('expert', [conv, subnet], ids=['merged', 'gathered'])
def test_half_precision_follows_the_experts(expert):
    layer, x = MoELayer(expert, 6), torch.randn(3, 6, 8, 8)
    with torch.autocast('cpu', torch.bfloat16):
        y = layer(x)
        layer.dispatch = dense_dispatch
        torch.testing.assert_close(y, layer(x), rtol=0.02, atol=0.02)
    assert y.dtype == torch.bfloat16
    assert decided(layer, x).weights.dtype == torch.float32


def test_remembered_experts_run_once_for_all_weights():
    torch.manual_seed(0)
    experts = [Counting(), Counting(), Counting()]
    pieces = [torch.randn(4, 3, 5, 5), torch.randn(4, 3, 2, 2)]
    dispatch = RememberingDispatch()
    for forced in (0, 1, None):
        if forced is None:
            weights = [torch.rand(4, 3).softmax(dim=1) for _ in pieces]
        else:
            weights = [torch.eye(3)[[forced] * 4] for _ in pieces]
        for ours, reference in zip(
                dispatch(pieces, weights, experts),
                dense_dispatch(pieces, weights, [e.conv for e in experts])):
            torch.testing.assert_close(ours, reference)
    assert [e.calls for e in experts] == [2, 2, 2]  # one per level
    # the same values in new tensors, as patches are cut out at every call
    dispatch([p.clone() for p in pieces], weights, experts)
    assert [e.calls for e in experts] == [2, 2, 2]
    # level by level, as a convolution of a tower is called
    alone = RememberingDispatch()
    counting = [Counting(), Counting(), Counting()]
    for _ in range(2):
        for piece, w in zip(pieces, weights):
            alone([piece], [w], counting)
    assert [e.calls for e in counting] == [2, 2, 2]
    nothing, = dispatch([torch.zeros(0, 3, 4, 4)], [torch.zeros(0, 3)],
                        experts)
    assert nothing.shape == (0, 2, 4, 4)
    # another piece of the same shape is not taken for the old one, nor the
    # old one if it was changed in place
    other = [p + 1 for p in pieces]
    for _ in range(2):
        for ours, reference in zip(
                dispatch(other, weights, experts),
                dense_dispatch(other, weights, [e.conv for e in experts])):
            torch.testing.assert_close(ours, reference)
        for piece in other:
            piece.mul_(2)
    with torch.inference_mode():
        dispatch([p + 1 for p in pieces], weights, experts)


class Counting(nn.Module):

    def __init__(self):
        super().__init__()
        self.conv, self.calls = nn.Conv2d(3, 2, 3, padding=1), 0

    def forward(self, x):
        self.calls += 1
        return self.conv(x)
