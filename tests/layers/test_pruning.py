"""A pruned layer is the layer with experts dropped."""
import copy

import pytest
import torch
from torch import nn

from mmdet_moe.layers import MoELayer, forced, prune, prune_state

OPTIONS = [
    dict(),
    dict(noise=True, hard_constraint=dict(type='LossFreeBias')),
    dict(gate=dict(type='ConvGAPGate', hidden_channels=4)),
    dict(gate=dict(type='TwoConvGAPGate'),
         hard_constraint=dict(type='MeanImportance')),
    dict(gate=dict(type='RandomGate'), shared_expert=True),
]


def layer(**options):
    made = MoELayer(lambda: nn.Conv2d(4, 3, 3, padding=1), 4, num_experts=4,
                    top_k=2, **options)
    for tensor in made.state_dict().values():
        if tensor.is_floating_point() and tensor.dim():
            tensor.normal_()
    return made.eval()


@pytest.mark.parametrize('options', OPTIONS, ids=str)
def test_equals_dropping(options):
    moe = layer(**options)
    x = [torch.randn(5, 4, 6, 6), torch.randn(5, 4, 3, 3)]
    with forced(moe, drop=[2]):
        expected = moe(x)
    pruned = copy.deepcopy(moe)
    prune(pruned, [0, 1, 3])
    for a, b in zip(pruned(x), expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert pruned.decide(x).weights.shape == (10, 3)
    # and by the state alone
    again = layer(**options)
    prune(again, [0, 1, 3])
    model = nn.ModuleDict(dict(a=moe, b=nn.Linear(2, 2)))
    state = prune_state(model.state_dict(), 'a', moe, [3, 1, 0])
    nn.ModuleDict(dict(a=again, b=nn.Linear(2, 2))).load_state_dict(state)
    for a, b in zip(again(x), expected):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    pruned.train()(x)  # noise and constraints fit


@pytest.mark.parametrize('keep, message', [
    ([0], r'keep=\[0\]: allowed is at least top_k=2'),
    ([0, 1, 4], 'keep=4'),
])
def test_what_cannot_be_left(keep, message):
    with pytest.raises(ValueError, match=message):
        prune(layer(), keep)
    single = MoELayer(lambda: nn.Conv2d(4, 3, 1), 4, top_k=1,
                      gate=dict(type='SingleExpertGate', expert=1))
    with pytest.raises(ValueError, match='has no per_expert'):
        prune(single, [0, 1])
