"""Nothing is tested with a checkpoint that lacks a part of the decision."""
from types import SimpleNamespace

import pytest
from torch import nn

from mmdet_moe.files import DataError
from mmdet_moe.hooks import CheckpointFitHook
from mmdet_moe.layers import MoELayer


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('gone', [
    'gate.fc_weight',  # a RandomGate's, which is no parameter
    'hard_constraint.selection_bias',
    'experts.1.bias'])
def test_a_checkpoint_without(gone, prefix):
    model = nn.Module()
    model.moe = MoELayer(
        lambda: nn.Conv2d(2, 2, 1), 2, gate=dict(type='RandomGate'),
        hard_constraint=dict(type='LossFreeBias'))
    state = {prefix + key: x for key, x in model.state_dict().items()}
    runner = SimpleNamespace(model=model)
    hook = CheckpointFitHook()
    hook.after_load_checkpoint(runner, dict(state_dict=state))
    hook.after_load_checkpoint(runner, state)  # weights alone
    del state[f'{prefix}moe.{gone}']
    with pytest.raises(DataError, match=f'moe.{gone} should have the shape'):
        hook.after_load_checkpoint(runner, dict(state_dict=state))
