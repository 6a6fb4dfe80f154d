"""Outputs that are kept: the same results, by less work."""
import pytest
import torch
from torch import nn

from mmdet_moe.analysis.kept import outputs_kept
from mmdet_moe.layers import MoELayer, forced


class Counted(nn.Module):
    """Counts how often it is run."""

    def __init__(self, run):
        super().__init__()
        self.run, self.runs = run, 0

    def forward(self, x):
        self.runs += 1
        return self.run(x)


class Model(nn.Module):
    """Two layers of experts, and parts of all kinds around them."""

    def __init__(self):
        super().__init__()
        self.stem = Counted(nn.Conv2d(2, 2, 1))
        self.activate = nn.ReLU(inplace=True)  # changes what stem returned
        self.tower = nn.ModuleList([Counted(lambda x: x + 1)])
        self.layers = nn.ModuleDict({
            name: MoELayer(lambda: nn.Conv2d(2, 2, 1), 2, num_experts=3,
                           top_k=2) for name in 'ab'
        })
        # the same experts again, beside another part
        self.again = nn.ModuleList([nn.Sequential(
            self.layers['a'], Counted(torch.tanh))])
        self.last = Counted(lambda xs: [xs['y'] * 2])

    def forward(self, x):
        x = self.activate(self.stem(x))
        x = self.tower[0](x)
        y = self.layers['b'](x.clone())  # equal, but another tensor
        y = y + self.again[0](x)
        out, = self.last(dict(y=y))
        out += 1  # in place: nobody may be given this twice
        return out


@pytest.fixture
def model():
    model = Model().eval()
    for layer in model.layers.values():
        nn.init.normal_(layer.gate.fc_weight)
    return model


@torch.no_grad()
def test_runs_are_what_they_would_be(model):
    x = torch.randn(3, 2, 4, 4)
    layers = {f'layers.{name}': layer for name, layer in model.layers.items()}
    usual = model(x)
    expected = {}
    for name in layers:
        for drop in range(3):
            with forced(model, layers=name, drop=drop):
                expected[name, drop] = model(x)
    counted = [m for m in model.modules() if isinstance(m, Counted)]
    for part in counted:
        part.runs = 0
    with outputs_kept(model, layers) as kept:
        assert torch.equal(model(x), usual)
        for (name, drop), y in expected.items():
            with kept.overruled(name), forced(model, layers=name, drop=drop):
                assert torch.allclose(model(x), y, atol=1e-6)
    assert all('forward' not in vars(m) for m in model.modules())
    assert torch.equal(model(x), usual)
    # stem is changed in place, and last gets something else each time
    runs = [part.runs - 1 for part in counted]
    assert runs == [1 + 6, 1, 1 + 3, 1 + 6]
