import logging

import pytest
import torch
import torch.distributed as dist
from mmengine.runner import Runner
from torch import nn
from toy import Pictures, Tower, train

from mmdet_moe.layers import MoELayer

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


def test_what_was_frozen_before_stays_frozen(tmp_path):
    model = Detector()
    model.stem = MoELayer(
        lambda: nn.Sequential(
            nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)), 4)
    for part in (model.stem, model.tower.gate, model.last.bias):
        part.requires_grad_(False)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    hook = dict(type='FreezeHook', trainable='last.*')
    assert changed(model, [hook], tmp_path)[1] == {'tower', 'last'}
    assert frozen == {
        n for n, p in model.named_parameters() if not p.requires_grad
    }


def test_nothing_is_left_to_train(tmp_path):
    model = Detector()
    model.tower.requires_grad_(False)
    with pytest.raises(ValueError, match=r'nothing to train: .*\(tower\)'):
        train(tmp_path, model, hooks=HOOKS[1:])
    for pattern in ('tower.gate.*', 'tower.gate.fc_weight'):
        hook = dict(type='FreezeHook', trainable=pattern)
        with pytest.raises(ValueError, match='not frozen already'):
            train(tmp_path, model, hooks=[hook])


@pytest.fixture
def process_group(tmp_path, monkeypatch):
    """A group of one process: what makes MMEngine wrap the model."""
    monkeypatch.setenv('LOCAL_RANK', '0')
    dist.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/group', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_the_model_that_is_wrapped_anew_is_compiled(process_group, tmp_path):
    torch._dynamo.reset()
    counts = torch._dynamo.utils.counters
    counts.clear()
    model = Detector(num_experts=2)  # both are selected: none is idle
    cfg = dict(
        train_dataloader=dict(
            dataset=Pictures(),
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=[dict(type='FreezeHook')])
    runner = Runner(
        model,
        work_dir=str(tmp_path),
        launcher='pytorch',
        experiment_name='compiled',
        cfg=dict(
            compile=dict(backend='eager'),
            model_wrapper_cfg=dict(
                type='MMDistributedDataParallel', device_ids=None)),
        **cfg)
    first = runner.model
    runner.train()
    assert runner.model is not first and runner.model.module is model
    assert 'train_step' in vars(runner.model)  # the compiled one
    assert counts['stats']['unique_graphs'] > 0
