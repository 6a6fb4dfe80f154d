import torch
from torch import nn

from mmdet_moe.layers import MoELayer, add_noise, upcycle


def conv():
    return nn.Conv2d(4, 4, 3, padding=1)


class Dense(nn.Module):

    def __init__(self):
        super().__init__()
        self.stem, self.body, self.last = conv(), conv(), conv()

    def forward(self, x):
        return self.last(self.body(self.stem(x)))


class WithExperts(Dense):
    """Experts in place of ``stem``, and one made of ``body`` and ``last``."""

    def __init__(self):
        super().__init__()
        self.stem = MoELayer(conv, 4)
        del self.body, self.last
        self.pair = MoELayer(lambda: nn.Sequential(conv(), conv()), 4,
                             dense_names={'0': 'body', '1': 'last'})

    def forward(self, x):
        return self.pair(self.stem(x))


def test_copies_are_the_dense_model_until_there_is_noise():
    dense, moe = Dense(), WithExperts()
    report = upcycle(moe, dense.state_dict())
    assert report.matches
    assert report.copied['stem.bias'] == [
        f'stem.experts.{e}.bias' for e in range(4)
    ]
    assert report.copied['last.weight'][1] == 'pair.experts.1.1.weight'
    assert report.new == [
        f'{name}.gate.{p}' for name in ('stem', 'pair')
        for p in ('fc_weight', 'fc_bias')
    ]
    x = torch.randn(3, 4, 6, 6)
    assert torch.allclose(dense(x), moe(x), atol=1e-6)

    before = moe.stem.experts[0].weight.clone()
    add_noise(moe, 0.1)
    noise = moe.stem.experts[0].weight - before
    # 144 draws: their standard deviation is known to within 6 %
    assert 0.8 < noise.std() / (0.1 * before.std()) < 1.2
    assert not torch.equal(moe.stem.experts[0].weight,
                           moe.stem.experts[1].weight)


def test_what_does_not_match_is_listed_and_nothing_is_loaded():
    moe = WithExperts()
    before = {k: v.clone() for k, v in moe.state_dict().items()}
    state = Dense().state_dict()
    state['head.weight'] = state.pop('body.weight')
    state['stem.bias'] = torch.zeros(9)
    report = upcycle(moe, state)
    assert not report.matches
    assert report.unused == ['head.weight']
    assert report.missing == [
        f'pair.experts.{e}.0.weight (dense: body.weight)' for e in range(4)
    ]
    assert report.reshaped[0] == (
        'stem.experts.0.bias: (4,), in the checkpoint (9,)')
    for text in ('head.weight', 'body.weight', '(9,)'):
        assert text in str(report)
    for key, value in moe.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_layer_that_no_dense_one_equals():
    moe = WithExperts()
    moe.stem.beyond_dense = 'adds one'
    report = upcycle(moe, Dense().state_dict())
    assert report.missing == ['stem: adds one']
