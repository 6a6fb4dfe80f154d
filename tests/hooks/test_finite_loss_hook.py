"""A training that goes wrong stops, and says where."""
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.model import MMDistributedDataParallel
from ranks import on_ranks
from torch import nn
from toy import Tower, train

from mmdet_moe.files import TrainingError
from mmdet_moe.hooks import FiniteLossHook
from mmdet_moe.hooks.finite_loss_hook import MOST_SKIPPED


class Failing(nn.Module):
    """Returns no number when it is called for the third step."""

    def __init__(self, value):
        super().__init__()
        self.value, self.calls = value, 0

    def forward(self, x):
        self.calls += 1
        return x * self.value if self.calls > 4 else x


class Broken(Tower):

    def __init__(self, value):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 4, 1), Failing(value))

    def forward(self, inputs, mode):
        return dict(loss_task=sum(
            self.tower(self.stem(x)).mean() for x in (inputs, -inputs)))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_the_module_is_named_and_no_weight_is_changed(tmp_path, value):
    model = Broken(value)
    steps = []
    model.register_forward_pre_hook(lambda *_: steps.append(
        {k: v.clone() for k, v in model.state_dict().items()}))
    with pytest.raises(TrainingError, match=r'of iteration 3 .*stem.1 \(Fail'):
        train(tmp_path, model, hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])
    for key, weight in model.named_parameters():
        assert torch.equal(weight, steps[2][key])
    assert all(w.isfinite().all() for w in model.parameters())


def test_weights_that_are_no_numbers(tmp_path):
    model = Tower()
    model.tower.experts[1].weight.data.fill_(float('nan'))
    with pytest.raises(TrainingError, match='tower.experts.1 .* has weights'):
        train(tmp_path, model, hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])


class Averaging(Broken):
    """Waits for the other processes, as heads of MMDetection do; one has
    pictures that give no number."""

    def forward(self, inputs, mode):
        inputs = inputs * (float('nan') if get_rank() and self.late else 1)
        losses = super().forward(inputs, mode)
        all_reduce(losses['loss_task'].detach().clone())
        return losses

    @property
    def late(self):
        return self.stem[1].calls >= 4


def on_rank(rank, folder):
    torch.manual_seed(0)
    model = Averaging(1.0)
    wrapped = MMDistributedDataParallel(model, device_ids=None)
    weights = []
    model.register_forward_pre_hook(lambda *_: weights.append(
        [w.detach().clone() for w in model.parameters()]))
    with pytest.raises(TrainingError) as error:
        train(f'{folder}/{rank}', wrapped, epochs=2, hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])
    return str(error.value), all(
        map(torch.equal, weights[2], model.parameters()))


def test_all_processes_stop_where_one_has_no_number(tmp_path):
    one, other = on_ranks(partial(on_rank, folder=tmp_path), tmp_path / 'ranks')
    assert one == other and one[1]
    assert one[0].startswith('the loss of iteration 3 is not finite on rank 1: '
                             'stem.0 (Conv2d) returns it')


def hook_of(model):
    hook = FiniteLossHook()
    runner = SimpleNamespace(model=model, optim_wrapper={}, iter=0)
    hook.before_train(runner)

    def step(value, scaled=False):
        batch = dict(inputs=torch.randn(2, 4, 6, 6))
        hook.before_train_iter(runner, runner.iter, batch)
        hook._see(model, (), dict(mode='loss'), dict(loss=torch.tensor(value)))
        if not scaled:
            hook._before_step()
        hook.after_train_iter(runner, runner.iter)
        runner.iter += 1

    return step


def test_steps_that_a_gradient_scaler_skips():
    """A few are none of our business; more than that are no training."""
    step, lost = hook_of(Tower()), float('nan')
    for _ in range(3):
        for _ in range(MOST_SKIPPED - 1):
            step(lost, scaled=True)
        step(1.0, scaled=True)
        for _ in range(MOST_SKIPPED - 1):
            step(lost, scaled=True)
        step(1.0)
    with pytest.raises(TrainingError):
        step(lost)
    step = hook_of(Tower())
    with pytest.raises(TrainingError, match='of iteration 10 is not finite'):
        for _ in range(MOST_SKIPPED):
            step(lost, scaled=True)


@pytest.mark.parametrize('call, iteration', [(4, 3), (6, 4)])
def test_of_accumulated_passes_the_one_is_named(tmp_path, call, iteration):
    """Iterations 3 and 4 are one step; each calls the module twice."""

    class Once(Failing):

        def forward(self, x):
            self.calls += 1
            # and when it is looked at once more
            again = call < self.calls <= call + 2 or self.calls > 8
            return x * self.value if again else x

    model = Broken(1.0)
    model.stem[1] = Once(float('nan'))
    with pytest.raises(TrainingError,
                       match=rf'of iteration {iteration} .*stem.1 \(Once'):
        train(tmp_path, model, accumulate=2, hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])
