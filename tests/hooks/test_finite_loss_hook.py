"""A training that goes wrong stops, and says where."""
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import needs
import pytest
import torch
from mmengine.dist import all_reduce, get_rank
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
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


class Fused(torch.optim.SGD):
    """Is called for steps that are to be skipped, too."""

    def step(self, closure=None):
        pass


def hook_of(model):
    hook = FiniteLossHook()
    optimizer = Fused(model.parameters(), lr=0.1)
    wrapper = OptimWrapper(optimizer)
    wrapper.loss_scaler = None
    runner = SimpleNamespace(
        model=model, optim_wrapper=wrapper, iter=0, hooks=[])
    hook.before_train(runner)

    def step(value, skipped=False):
        batch = dict(inputs=torch.randn(2, 4, 6, 6))
        hook.before_train_iter(runner, runner.iter, batch)
        hook._see(model, (), dict(mode='loss'), dict(loss=torch.tensor(value)))
        if skipped != 'is not called':
            optimizer.found_inf = torch.tensor(float(skipped == 'fused'))
            optimizer.step()
        hook.after_train_iter(runner, runner.iter)
        runner.iter += 1

    return step


@pytest.mark.parametrize('how', ['is not called', 'fused'])
@pytest.mark.parametrize('value', [float('nan'), 1.0])
def test_steps_that_a_gradient_scaler_skips(how, value):
    """A few are none of our business; more than that are no training. They
    may be skipped for a gradient alone."""
    step = hook_of(Tower())
    for _ in range(3):
        for _ in range(MOST_SKIPPED - 1):
            step(value, how)
        step(1.0)
    with pytest.raises(TrainingError):
        step(float('nan'))
    step = hook_of(Tower())
    text = 'is finite, but' if value == 1 else 'is not finite'
    with pytest.raises(TrainingError,
                       match=f'of iteration {MOST_SKIPPED} {text}'):
        for _ in range(MOST_SKIPPED):
            step(value, how)


class Root(Tower):
    """A finite loss, the gradient of which is none from the third step on."""

    def forward(self, inputs, mode):
        loss = super().forward(inputs, mode)['loss_task']
        self.calls = getattr(self, 'calls', 0) + 1
        root = (0 * loss).sqrt() if self.calls > 2 else 0
        return dict(loss_task=loss + root,
                    acc=torch.tensor(float('nan')))  # is only logged


def test_a_gradient_that_is_no_number(tmp_path):
    with pytest.raises(TrainingError, match=(
            'of iteration 3 is finite, but the gradient is not, of tower')):
        train(tmp_path, Root(), hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])


def test_weights_that_are_no_numbers_are_not_written(tmp_path):
    """Nor are averages, or running statistics, that are none."""
    model = Tower()
    model.norm = nn.BatchNorm2d(4)
    model.register_buffer('mask', torch.tensor(float('-inf')))
    runner, hook = SimpleNamespace(model=model), FiniteLossHook()
    hook.before_save_checkpoint(runner, dict(state_dict=model.state_dict()))
    for key in ('tower.experts.1.weight', 'norm.running_mean'):
        state = {name: x.clone() for name, x in model.state_dict().items()}
        state[key][0] = float('inf')
        for content in (dict(state_dict=state), dict(
                state_dict={}, ema_state_dict={f'module.{key}': state[key]})):
            with pytest.raises(TrainingError, match='has weights, or running'):
                hook.before_save_checkpoint(runner, content)


class Overflowing(Tower):
    """A finite gradient that the learning rate makes too much of."""

    def forward(self, inputs, mode):
        return dict(loss_task=self.tower(inputs).mean() * 1e30)


@pytest.mark.parametrize('by_epoch', [True, False])
def test_of_a_bad_step_nothing_is_written(tmp_path, by_epoch):
    hook = dict(type='CheckpointHook', by_epoch=by_epoch, interval=1)
    with pytest.raises(TrainingError, match='has weights'):
        train(tmp_path, Overflowing(), lr=1e30, checkpoint=hook, hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])
    assert not list(tmp_path.glob('*.pth'))


class Drifting(Tower):
    """One process gets a running mean that is no number in iteration 3."""

    def __init__(self):
        super().__init__()
        self.norm, self.calls = nn.BatchNorm2d(4), 0

    def forward(self, inputs, mode):
        self.calls += 1
        if self.calls == 3 and get_rank() == 0:
            self.norm.running_mean.fill_(float('inf'))
        return dict(loss_task=self.tower(self.norm(inputs)).mean())


def drift(rank, folder, **written):
    model = MMDistributedDataParallel(
        Drifting(), device_ids=None, broadcast_buffers=False)
    with pytest.raises(TrainingError, match='has weights, or running'):
        train(f'{folder}/{rank}', model, epochs=2, accumulate=2, hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')],
            checkpoint=dict(type='CheckpointHook', by_epoch=False, **written))
    return model.module.calls


@pytest.mark.parametrize('written, calls', [
    (dict(interval=3), 3), (dict(interval=2, save_begin=1), 3),
    (dict(interval=100), 4)])
def test_all_processes_stop_before_it_is_written(tmp_path, written, calls):
    found = on_ranks(partial(drift, folder=tmp_path, **written),
                     tmp_path / 'ranks')
    assert found == [calls, calls]


class Refusing(Broken):
    """Raises an error at what is no number, as some assigners do."""

    def forward(self, inputs, mode):
        losses = super().forward(inputs, mode)
        if not losses['loss_task'].isfinite():
            raise ValueError('matrix contains invalid numeric entries')
        return losses


def test_a_detector_that_raises_an_error_itself(tmp_path):
    with pytest.raises(ValueError, match='invalid numeric'):
        train(tmp_path, Refusing(float('nan')), hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])
    log = next(tmp_path.glob('**/*.log')).read_text()
    assert 'iteration 3: what is not finite: stem.1 (Failing) returns' in log


class HalfPrecision(OptimWrapper):
    """As AmpOptimWrapper, on a CPU."""

    @contextmanager
    def optim_context(self, model):
        with torch.autocast('cpu', torch.float16), super().optim_context(model):
            yield


class Large(Tower):
    """Overflows in half precision only."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(4, 4, 1)
        self.stem.weight.data.fill_(1e5)

    def forward(self, inputs, mode):
        return dict(loss_task=self.tower(self.stem(inputs.abs())).mean())


@needs.half_on_cpu
def test_looks_again_as_in_the_training(tmp_path):
    with pytest.raises(TrainingError, match=r'stem \(Conv2d\) returns it'):
        train(tmp_path, Large(), wrapper=HalfPrecision, hooks=[
            dict(type='MoEHook'), dict(type='FiniteLossHook')])


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
