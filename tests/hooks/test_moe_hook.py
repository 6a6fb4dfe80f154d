import pytest
import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmdet_moe.layers import MoELayer


class Pictures(Dataset):

    def __len__(self):
        return 8

    def __getitem__(self, i):
        generator = torch.Generator().manual_seed(i)
        return dict(inputs=torch.randn(4, 6, 6, generator=generator))


class Tower(BaseModel):
    """Any model: one MoE layer that is called once per level."""

    def __init__(self, with_moe=True, **moe):
        super().__init__()
        self.tower = MoELayer(lambda: nn.Conv2d(4, 4, 1), 4, **
                              moe) if with_moe else nn.Conv2d(4, 4, 1)

    def forward(self, inputs, mode):
        y = self.tower(inputs).mean() + self.tower(inputs[..., :3]).mean()
        return dict(loss_task=y) if mode == 'loss' else y


def train(tmp_path, model, hooks=(dict(type='MoEHook'), ), accumulate=1):
    runner = Runner(
        model,
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=Pictures(),
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(
            optimizer=dict(type='SGD', lr=0.1),
            accumulative_counts=accumulate),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=list(hooks),
        experiment_name=f'hook_{tmp_path.name}')
    runner.train()
    return runner


def test_losses_and_statistics_are_logged(tmp_path):
    runner = train(
        tmp_path,
        Tower(soft_constraint=[
            dict(type='KLLoss', weight=0.5),
            dict(type='ImportanceLoss', weight=0.1)
        ]))
    scalars = runner.message_hub.log_scalars
    for name in ('kl', 'importance'):
        assert scalars[f'train/loss_moe_{name}/tower'].current() > 0
    # The total that was trained on has them in it.
    parts = sum(v.current() for k, v in scalars.items()
                if k.startswith('train/loss_'))
    assert scalars['train/loss'].current() == pytest.approx(parts)
    for what, total in (('importance', 1), ('share', 2)):
        values = [
            scalars[f'train/moe/tower/{what}_{e}'].current() for e in range(4)
        ]
        assert sum(values) == pytest.approx(total, abs=1e-5)
    log = next(tmp_path.rglob('scalars.json')).read_text()
    assert 'moe/tower/importance_3' in log


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


def test_a_frozen_gate_with_a_constraint_is_an_error(tmp_path):
    model = Tower(soft_constraint=dict(type='KLLoss'))
    model.tower.gate.requires_grad_(False)
    with pytest.raises(ValueError, match='tower.gate is frozen'):
        train(tmp_path, model)
