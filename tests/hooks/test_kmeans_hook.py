"""Routing by clusters of the features."""
import pytest
import torch
from toy import Tower, train

from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer

HOOKS = (dict(type='KMeansHook', pictures=8), dict(type='MoEHook'))
MOE = dict(gate=dict(type='KMeansGate'), num_experts=3, top_k=1)


def test_the_nearest_cluster():
    layer = MoELayer(torch.nn.Identity, 2, num_experts=2, top_k=2,
                     gate=dict(type='KMeansGate'))
    with pytest.raises(RuntimeError, match='KMeansHook finds them'):
        layer(torch.randn(1, 2, 3, 3))
    layer.gate.centroids.copy_(torch.tensor([[0.0, 0], [3, 0]]))
    layer.gate.scale.fill_(2.0)
    x = torch.tensor([1.0, 1.0]).view(1, 2, 1, 1)
    # squared distances 2 and 5, in units of 2
    logits = layer.decide([x]).routing.logits
    torch.testing.assert_close(logits, torch.tensor([[-1.0, -2.5]]))


def test_fitted_before_each_epoch(tmp_path):
    model = Tower(**MOE)
    train(tmp_path, model, hooks=HOOKS)
    gate = model.tower.gate
    assert gate.fitted and gate.centroids.unique(dim=0).shape == (3, 4)
    # each cluster is the nearest one of some sample
    features = torch.cat([
        gate.features(x[None]) for i in range(8)
        for full in [torch.randn(4, 6, 6, generator=torch.Generator(
        ).manual_seed(i))] for x in (full, full[..., :3])])
    nearest = torch.cdist(features, gate.centroids).argmin(dim=1)
    assert len(nearest.unique()) == 3
    again = Tower(**MOE)
    again.load_state_dict(model.state_dict())
    assert again.tower.gate.fitted


def test_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match='KMeansHook found no KMeansGate'):
        train(tmp_path, Tower(), hooks=HOOKS)
    with pytest.raises(DataError, match='pictures=1 give 4 samples of tower'):
        train(tmp_path, Tower(**dict(MOE, num_experts=5)),
              hooks=(dict(type='KMeansHook', pictures=1), HOOKS[1]))
