"""All parts of a layer together: gates x scopes x experts x K x constraints.

- The sparse dispatch is the dense reference, in output and gradients.
- A trained layer in evaluation does what it does in training without noise
  and masks; a bias of the selection stays.
- Its state in a new layer gives the identical output.
"""
import copy

import pytest
import torch
from torch import nn

from mmdet_moe.layers import (
    BothOutcomes,
    FeedForward,
    MoELayer,
    Parallel,
    dense_dispatch,
    sparse_dispatch,
)

C, E = 4, 4


class Block(nn.Module):

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(conv(), nn.ReLU(), conv())

    def forward(self, x):
        return (self.body(x) + x).relu()


def conv():
    return nn.Conv2d(C, C, 3, padding=1)


def subnet():
    return nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(C, 3, 1))


def pointwise():
    return nn.Sequential(nn.Conv2d(C, 8, 1), nn.ReLU(), nn.Conv2d(8, C, 1))


EXPERTS = dict(
    conv=conv,
    block=Block,
    subnet=subnet,
    ffn=lambda: FeedForward(C, 8),
    pointwise=pointwise,
    pair=lambda: Parallel(dict(cls=subnet().append(BothOutcomes()), reg=conv()))
)
SCOPES = [
    dict(type='LevelScope'),
    dict(type='ImageScope'),
    dict(type='PatchScope', grid=2)
]
POSITIONS = dict(type='PositionScope')
GATES = [
    dict(type='GAPFCGate'),
    dict(type='ConvGAPGate', hidden_channels=3),
    dict(type='TwoConvGAPGate'),
    dict(type='RandomGate'),
    dict(type='EqualGate'),
    dict(type='SingleExpertGate', expert=1),
]
CONSTRAINTS = [
    dict(),
    dict(noise=True, soft_constraint=dict(type='SwitchLoss'),
         routing='sigmoid', shared_expert=True),
    dict(hard_constraint=dict(type='LossFreeBias', rate=0.1)),
    dict(soft_constraint=[dict(type='EntropyLoss'), dict(type='RouterZLoss')],
         hard_constraint=dict(type='MeanImportance', threshold=0.0)),
    dict(hard_constraint=dict(
        type='RelativeImportance', threshold=0.0, paper_per_call=True),
         balance_weight='area'),
    # with 1 < K < E only
    dict(noise=True, balance_over='call',
         soft_constraint=[dict(type=f'{name}Loss') for name in
                          ('Importance', 'KL', 'Load', 'Variance')]),
]


def layers(gate, scope, expert):
    """Every K and constraint that the gate allows."""
    static = gate['type'] in ('EqualGate', 'SingleExpertGate', 'RandomGate')
    for top_k in (1, 2, E):
        for constraint in CONSTRAINTS[:1] if static else CONSTRAINTS:
            if 'balance_over' in constraint and top_k != 2 or (
                    'hard_constraint' in constraint and top_k == E):
                continue
            yield lambda k=top_k, c=constraint: MoELayer(
                EXPERTS[expert], C, num_experts=E, top_k=k, gate=gate,
                scope=scope, **c)


def pyramid():
    return [torch.randn(3, C, 7, 6), torch.randn(3, C, 3, 3)]


def outcome(layer, dispatch):
    """Output, and the gradients of all parameters and of the input."""
    layer = copy.deepcopy(layer)
    layer.dispatch = dispatch
    torch.manual_seed(1)  # the same noise
    levels = [x.requires_grad_() for x in pyramid()]
    outputs = layer(levels)
    losses = layer.collect().losses.values() if layer.constrained else ()
    (sum(y.pow(2).sum() for y in outputs) + sum(losses)).backward()
    return [
        *outputs, *(x.grad for x in levels),
        *(torch.zeros_like(p) if p.grad is None else p.grad
          for p in layer.parameters())
    ]


def train(layer):
    parameters = list(layer.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    for _ in range(2):
        outputs = layer(pyramid())
        losses = layer.collect().losses.values() if layer.constrained else ()
        optimizer.zero_grad()
        (sum(y.pow(2).mean() for y in outputs) + sum(losses)).backward()
        optimizer.step()
        layer.step()


@pytest.mark.parametrize('expert', ['conv', 'block', 'subnet', 'pair'])
@pytest.mark.parametrize('scope', SCOPES, ids=lambda s: s['type'])
@pytest.mark.parametrize('gate', GATES, ids=lambda g: g['type'])
def test_parity(gate, scope, expert):
    check_parity(gate, scope, expert)


@pytest.mark.parametrize('expert', ['ffn', 'pointwise'])
@pytest.mark.parametrize(
    'gate', [g for g in GATES if 'Conv' not in g['type']],
    ids=lambda g: g['type'])
def test_parity_of_positions(gate, expert):
    check_parity(gate, POSITIONS, expert)


def check_parity(gate, scope, expert):
    x = pyramid()
    for make in layers(gate, scope, expert):
        layer = make()
        for a, b in zip(outcome(layer, sparse_dispatch),
                        outcome(layer, dense_dispatch)):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), layer

        train(layer)
        with torch.no_grad():
            evaluated = layer.eval()(x)
            bare = copy.deepcopy(layer).train()
            bare.noise = None
            if bare.hard_constraint is not None and (
                    bare.hard_constraint.shift() is None):
                bare.hard_constraint = None
            assert all(map(torch.equal, evaluated, bare(x))), layer
            again = make().eval()
            again.load_state_dict(layer.state_dict())
            assert all(map(torch.equal, evaluated, again(x))), layer
