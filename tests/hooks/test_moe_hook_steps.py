"""What the hook does at an optimizer step, and which layers it minds."""
from types import SimpleNamespace

import needs
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from torch import nn
from toy import Tower, train

from mmdet_moe.hooks import MoEHook
from mmdet_moe.hooks.wrappers import hook_steps

RELATIVE = dict(hard_constraint=dict(type='RelativeImportance'))


@needs.cpu_scaler
@pytest.mark.parametrize('fused', [False, True])
def test_a_step_that_the_scaler_skips_does_not_move_the_constraint(fused):
    model = Tower(**RELATIVE)
    # Every sample goes to expert 0, and to expert 1 with a weight of 0.
    model.tower.gate.fc_weight.data.zero_()
    model.tower.gate.fc_bias.data = torch.tensor([99., 0., -9., -9.])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    MoEHook().before_train(
        SimpleNamespace(model=model, optim_wrapper=OptimWrapper(optimizer)))
    scaler = torch.amp.GradScaler('cpu', init_scale=2.0)
    before = model.tower.experts[0].weight.clone()
    moved = []
    for factor in (float('inf'), 1.0):
        losses = model(torch.randn(2, 4, 6, 6), mode='loss')
        scaler.scale(losses['loss_task'] * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        moved.append((not torch.equal(before, model.tower.experts[0].weight),
                      model.tower.hard_constraint.relative_importance.tolist()
                      ))
    # R_e = (I_e - mean) / mean, with all of I at expert 0: 4 - 1, 0 - 1.
    assert moved == [(False, [0, 0, 0, 0]), (True, [3, -1, -1, -1])]


@pytest.mark.parametrize('when', ['before', 'after'])
def test_steps_count_after_a_compilation(monkeypatch, when):
    """The compiler of PyTorch 2.1 takes hooks out of the class, for good."""
    model, moved = Tower(**RELATIVE), []
    torch.optim.SGD(model.parameters(), lr=0.1)
    plain = torch.optim.SGD.step.__wrapped__

    def compile_something():
        monkeypatch.setattr(torch.optim.SGD, 'step', plain)
        monkeypatch.setattr(plain, 'hooked', True, raising=False)

    if when == 'before':
        compile_something()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):  # of two hooks, or two runs
        handles = hook_steps(optimizer, before=lambda *_: moved.append(1),
                             after=lambda *_: moved.append(2))
    if when == 'after':
        compile_something()
    torch.optim.lr_scheduler.ConstantLR(optimizer)
    optimizer.step()
    for handle in handles:
        handle.remove()
    optimizer.step()
    assert moved == [1, 1, 2, 2, 1, 2]


class Block(nn.Module):
    """A residual block, as those of a ResNet."""

    def __init__(self, conv, with_cp):
        super().__init__()
        self.conv, self.with_cp = conv, with_cp

    def forward(self, x):
        return x + self.conv(x)


@pytest.mark.parametrize('constraint', [
    dict(soft_constraint=dict(type='KLLoss')), RELATIVE])
def test_a_constraint_in_a_checkpointed_block_is_refused(tmp_path, constraint):
    model = Tower(**constraint)
    model.tower = nn.Sequential(nn.Identity(), Block(model.tower, True))
    with pytest.raises(ValueError, match=r'^tower\.1 has with_cp=True: '
                       r'tower\.1\.conv has a constraint'):
        train(tmp_path, model)


def test_a_checkpointed_block_without_a_constraint_is_allowed(tmp_path):
    model = Tower()
    model.tower = Block(model.tower, True)
    train(tmp_path, model)


class Student(Tower):
    """A tower that follows a frozen one, whose gradient passes through."""

    def __init__(self, teach_in_eval, **moe):
        super().__init__()
        self.teach_in_eval = teach_in_eval
        self.stem = nn.Conv2d(4, 4, 1)
        self.teacher = Tower(**moe).requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.train(mode and not self.teach_in_eval)
        return self

    def forward(self, inputs, mode):
        x = self.stem(inputs)
        losses = super().forward(x, mode)
        return dict(loss_task=losses['loss_task'] + self.teacher(x, 'tensor'))


@pytest.mark.parametrize('teach_in_eval', [True, False])
def test_a_frozen_teacher_takes_no_part(tmp_path, teach_in_eval):
    model = Student(
        teach_in_eval,
        soft_constraint=dict(type='KLLoss'),
        hard_constraint=dict(type='RelativeImportance'))
    calls = []

    class Look(MoEHook):

        def after_train_iter(self, *args, **kwargs):
            super().after_train_iter(*args, **kwargs)
            calls.append(len(model.teacher.tower.recorder.calls))

    scalars = train(
        tmp_path, model, hooks=[Look()]).message_hub.log_scalars
    assert calls == [0, 0, 0, 0]
    assert 'train/moe.tower.importance_0' in scalars
    assert not any('teacher' in key for key in scalars)
    assert not model.teacher.tower.hard_constraint.relative_importance.any()


def test_a_frozen_gate_over_experts_that_are_trained(tmp_path):
    # Fine without a constraint, also where nothing would train the gate.
    model = Tower(top_k=1)
    model.tower.gate.requires_grad_(False)
    train(tmp_path, model)
    model = Tower(**RELATIVE)
    model.tower.gate.requires_grad_(False)
    with pytest.raises(ValueError, match='tower.gate is frozen'):
        train(tmp_path / 'b', model)


def test_statistics_are_synchronised_before_they_are_averaged():
    # MMDetection's configs give the EMAHook a priority of 49.
    assert MoEHook().priority == 'ABOVE_NORMAL'
    hub = MessageHub.get_instance('unused')
    MoEHook().after_train_iter(
        SimpleNamespace(message_hub=hub, optim_wrapper=None), 0)
