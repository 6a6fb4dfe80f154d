import json

import pytest
import torch
from toy import Tower, train


def test_losses_and_statistics_are_logged(tmp_path):
    runner = train(
        tmp_path,
        Tower(soft_constraint=[
            dict(type='KLLoss', weight=0.5),
            dict(type='ImportanceLoss', weight=0.1)
        ]))
    scalars = runner.message_hub.log_scalars
    for name in ('kl', 'importance'):
        assert scalars[f'train/loss_moe_{name}.tower'].current() > 0
    # The total that was trained on has them in it.
    parts = sum(v.current() for k, v in scalars.items()
                if k.startswith('train/loss_'))
    assert scalars['train/loss'].current() == pytest.approx(parts)
    for what, total in (('importance', 1), ('share', 2)):
        values = [
            scalars[f'train/moe.tower.{what}_{e}'].current() for e in range(4)
        ]
        assert sum(values) == pytest.approx(total, abs=1e-5)
    log = next(tmp_path.rglob('scalars.json')).read_text()
    assert 'moe.tower.importance_3' in log


def test_hard_constraint_moves_once_per_optimizer_step(tmp_path):
    steps = {}
    for accumulate in (1, 2):
        model = Tower(hard_constraint=dict(type='MeanImportance'))
        train(tmp_path / str(accumulate), model, accumulate=accumulate)
        steps[accumulate] = int(model.tower.hard_constraint.steps)
    assert steps == {1: 4, 2: 2}


def test_without_the_hook_a_constraint_is_an_error(tmp_path):
    with pytest.raises(RuntimeError, match="dict\\(type='MoEHook'\\)"):
        train(tmp_path, Tower(soft_constraint=dict(type='KLLoss')), hooks=())


def test_a_model_without_experts_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='no MoE layer'):
        train(tmp_path, Tower(with_moe=False))


def test_a_constrained_layer_that_does_not_train_is_an_error(tmp_path):

    class Frozen(Tower):

        def train(self, mode=True):
            super().train(mode)
            self.tower.eval()
            return self

    with pytest.raises(RuntimeError, match='tower has a constraint, but was'):
        train(tmp_path, Frozen(soft_constraint=dict(type='KLLoss')))


def test_a_gate_that_nothing_trains_is_an_error(tmp_path):
    with pytest.raises(ValueError, match='tower: top_k=1 .*SwitchLoss'):
        train(tmp_path, Tower(top_k=1, soft_constraint=dict(
            type='RouterZLoss')))
    train(tmp_path / 'ok', Tower(top_k=1, soft_constraint=dict(
        type='SwitchLoss')))
    # each domain has an expert: one is enough, and the loss trains the gate
    with pytest.raises(ValueError, match='tower .* domain'):  # at first step
        train(tmp_path / 'domains', Tower(top_k=1, soft_constraint=dict(
            type='DatasetLoss', experts=dict(sea=0))))


def test_nothing_is_kept_after_the_training(tmp_path):
    model = Tower()
    train(tmp_path, model)
    model(torch.randn(2, 4, 6, 6), 'loss')
    assert not model.tower.recorder.calls


def test_a_frozen_gate_with_a_constraint_is_an_error(tmp_path):
    model = Tower(soft_constraint=dict(type='KLLoss'))
    model.tower.gate.requires_grad_(False)
    with pytest.raises(ValueError, match='tower.gate is frozen'):
        train(tmp_path, model)
    # one that is not trained anyway can be balanced by a bias
    train(tmp_path / 'ok', Tower(gate=dict(type='RandomGate'),
                                 hard_constraint=dict(type='LossFreeBias')))


def test_what_the_mask_did_is_logged(tmp_path):
    train(tmp_path, Tower(hard_constraint=dict(
        type='RelativeImportance', threshold=0.0)))
    lines = next(tmp_path.rglob('scalars.json')).read_text().splitlines()
    logs = [json.loads(line) for line in lines]
    # Nothing is known before the first step; afterwards a uniform importance
    # to the last digit would be needed for nothing to be masked.
    masked = [[log[f'moe.tower.masked_{e}'] for e in range(4)] for log in logs]
    assert sum(masked[0]) == 0 and logs[0]['moe.tower.changed'] == 0
    assert all(1 <= sum(row) <= 2 for row in masked[1:])
    assert any(log['moe.tower.changed'] > 0 for log in logs[1:])


def test_a_hard_constraint_is_lifted_at_its_epoch(tmp_path):
    lifted = {}
    for epoch in (1, 2):
        model = Tower(hard_constraint=dict(
            type='MeanImportance', lift_at=dict(epoch=epoch)))
        train(tmp_path / str(epoch), model, epochs=2)
        lifted[epoch] = model.tower.hard_constraint.lifted
    assert lifted == {1: True, 2: False}
    log = next((tmp_path / '2').rglob('*.log')).read_text()
    assert "tower.hard_constraint.lift_at={'epoch': 2} is never" in log
