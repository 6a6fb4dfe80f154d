import logging

import pytest
import torch
from torch import nn
from toy import Tower, train

HOOKS = (dict(type='MoEHook'), dict(type='FreezeHook'))


class Detector(Tower):
    """The tower after a stem with BatchNorm, before a last convolution."""

    def __init__(self, **moe):
        super().__init__(**moe)
        self.stem = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4),
                                  nn.BatchNorm2d(4, affine=False))
        self.last = nn.Conv2d(4, 4, 1)

    def forward(self, inputs, mode):
        losses = super().forward(self.stem(inputs), mode)
        return dict(loss_task=losses['loss_task'] + self.last(inputs).mean())


def changed(model, hooks, tmp_path):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    runner = train(tmp_path, model, hooks=hooks)
    return runner, {
        k.split('.')[0]
        for k, v in model.state_dict().items() if not torch.equal(v, before[k])
    }


def test_only_the_experts_are_trained(tmp_path, caplog):
    model = Detector(soft_constraint=dict(type='KLLoss'))
    with caplog.at_level(logging.INFO):
        runner, parts = changed(model, HOOKS, tmp_path)
    assert parts == {'tower'}  # not even the BatchNorm's statistics
    log = next(tmp_path.rglob('*.log')).read_text()
    # 4 experts of 4 * 4 + 4 and a gate of 4 * 4 + 4
    assert 'trained tower: 100 parameters' in log
    assert 'frozen  stem: 28 parameters' in log
    assert 'frozen  last: 20 parameters' in log


def test_more_can_be_trained(tmp_path):
    hooks = (HOOKS[0], dict(type='FreezeHook', trainable=['last.*']))
    assert changed(Detector(), hooks, tmp_path)[1] == {'tower', 'last'}


def test_a_pattern_that_matches_nothing(tmp_path):
    hooks = (HOOKS[0], dict(type='FreezeHook', trainable='neck.*'))
    with pytest.raises(ValueError, match=r"FreezeHook.trainable='neck.\*'"):
        train(tmp_path, Detector(), hooks=hooks)
    with pytest.raises(ValueError, match='FreezeHook found no MoE layer'):
        train(tmp_path / 'b', Tower(with_moe=False), hooks=HOOKS[1:])
