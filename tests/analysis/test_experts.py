"""A report is not made of a checkpoint that lacks a part of the decision."""
import pytest
import torch
from torch import nn

from mmdet_moe.analysis.experts import check_experts
from mmdet_moe.files import DataError
from mmdet_moe.layers import MoELayer


@pytest.mark.parametrize('gone', [
    'gate.fc_weight',  # a RandomGate's, which is no parameter
    'hard_constraint.selection_bias',
    'experts.1.bias'])
def test_a_checkpoint_without(tmp_path, gone):
    layer = MoELayer(
        lambda: nn.Conv2d(2, 2, 1), 2, gate=dict(type='RandomGate'),
        hard_constraint=dict(type='LossFreeBias'))
    state = {f'moe.{key}': value for key, value in layer.state_dict().items()}
    path = str(tmp_path / 'a.pth')
    torch.save(dict(state_dict=state), path)
    check_experts(path, dict(moe=layer))
    del state[f'moe.{gone}']
    torch.save(dict(state_dict=state), path)
    with pytest.raises(DataError, match=f'moe.{gone} should have the shape'):
        check_experts(path, dict(moe=layer))
