import copy
import math
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from twins import decided

from mmdet_moe.layers import MoELayer, fresh_copy

approx = partial(pytest.approx, abs=1e-4)


def conv():
    return nn.Conv2d(6, 6, 3, padding=1)


def sign_routed(**options):
    """Two experts: 0 for positive features, 1 for negative ones."""
    layer = MoELayer(conv, 6, num_experts=2, **options)
    layer.gate.fc_bias.data.zero_()
    layer.gate.fc_weight.data = torch.tensor([[9.0] * 6, [-9.0] * 6])
    return layer


def levels():
    return [torch.randn(2, 6, 8, 8), torch.randn(2, 6, 4, 4)]


@pytest.mark.parametrize('options, message', [
    (dict(top_k=5), 'top_k=5: allowed is an integer from 1 to 4'),
    (dict(top_k=0), 'top_k=0: .* from 1 to 4'),
    (dict(top_k=1.5), 'top_k=1.5'),
    (dict(num_experts=0), 'num_experts=0: .* at least 1'),
    (dict(num_experts='four'), "num_experts='four'"),
    (dict(gate=dict(type='Oracle')), "gate.type='Oracle': .*'GAPFCGate'"),
    (dict(gate='GAPFCGate'), "gate='GAPFCGate'"),
    (dict(gate=dict(type='ConvGAPGate', hidden_channels=0)),
     'gate.hidden_channels=0'),
    (dict(gate=dict(type='GAPFCGate', in_channels=3)), 'gate.in_channels'),
    (dict(soft_constraint=dict(type='Entropy')), "soft_constraint.type='Ent"),
    (dict(soft_constraint=dict(type='KLLoss', weight=-1)),
     'soft_constraint.weight=-1: .* at least 0'),
    (dict(soft_constraint=[dict(type='KLLoss', weight=math.nan)]),
     r'soft_constraint\[0\].weight=nan'),
    (dict(soft_constraint=dict(type='KLLoss'), top_k=1), 'top_k=1: .* 2'),
    (dict(soft_constraint=[dict(type='KLLoss')] * 2), 'each type once'),
    (dict(hard_constraint=dict(type='KLLoss')), "hard_constraint.type='KLL"),
    (dict(hard_constraint=dict(type='MeanImportance', threshold='0.1')),
     "hard_constraint.threshold='0.1': .* number"),
    (dict(balance_over='epoch'), "balance_over='epoch': .*'step', 'call'"),
    (dict(dispatch='fast'), "dispatch='fast'"),
    (dict(noise=2), 'noise=2'),
    (dict(scope=dict(type='WorldScope')), "scope.type='World.*'PatchScope'"),
    (dict(scope=dict(type='PatchScope', grid=0)), 'scope.grid=0'),
    (dict(balance_weight='object'), "balance_weight='object': .*'area'"),
    (dict(soft_constraint=dict(type='LoadLoss')), 'noise=False: .*LoadLoss'),
    (dict(soft_constraint=dict(type='LoadLoss'), noise=True, top_k=4),
     'top_k=4: .* less than num_experts=4'),
    (dict(gate=dict(type='EqualGate'), noise=True), 'noise=True: .*EqualGate'),
    (dict(gate=dict(type='SingleExpertGate', expert=4)), 'gate.expert=4'),
    (dict(gate=dict(type='EqualGate'), soft_constraint=dict(type='KLLoss')),
     'soft_constraint=.*None with the static gate EqualGate'),
    (dict(gate=dict(type='EqualGate'),
          hard_constraint=dict(type='MeanImportance')),
     'hard_constraint=.*None with the static gate'),
    (dict(hard_constraint=dict(type='MeanImportance'), top_k=4),
     'top_k=4: .* less than num_experts=4 with a hard constraint'),
    (dict(hard_constraint=dict(type='MeanImportance', threshold=0.75)),
     'hard_constraint.threshold=0.75: .*less than 1 - 1/E = 0.75'),
    (dict(hard_constraint=dict(type='MeanImportance', lift_at=dict(epoch=0))),
     'hard_constraint.lift_at.epoch=0'),
    (dict(hard_constraint=dict(type='MeanImportance', lift_at=3)),
     'hard_constraint.lift_at=3'),
    (dict(hard_constraint=dict(type='MeanImportance', lift_at=dict(day=1))),
     "hard_constraint.lift_at='day'"),
])
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MoELayer(conv, 6, **options)


def test_channels_that_do_not_match():
    with pytest.raises(ValueError, match='in_channels=8: allowed is 6'):
        MoELayer(conv, 8)
    with pytest.raises(ValueError, match=r'shape \(1, 5, 4, 4\)'):
        MoELayer(conv, 6)(torch.randn(1, 5, 4, 4))


@pytest.mark.parametrize('scope, shape, right', [
    ('LevelScope', (3, 6), 'RowScope'), ('ImageScope', (3, 6), 'RowScope'),
    ('PatchScope', (3, 5, 6), 'RowScope'), ('RowScope', (6, ), 'n, C')])
def test_features_that_the_scope_does_not_take(scope, shape, right):
    expert = conv if scope != 'RowScope' else partial(nn.Linear, 6, 6)
    layer = MoELayer(expert, 6, scope=dict(type=scope),
                     soft_constraint=dict(type='KLLoss'))
    for call in (layer, lambda x: layer.decide([x])):
        with pytest.raises(ValueError, match=f'scope={scope}.*{right}'):
            call(torch.randn(shape))


def test_evaluation_has_no_noise_and_no_mask():
    layer = MoELayer(
        conv,
        6,
        noise=True,
        hard_constraint=dict(type='RelativeImportance', threshold=0.3))
    layer.hard_constraint.relative_importance[:2] = 9
    x = levels()
    assert decided(layer, x).masked.tolist() == [
        [True, True, False, False]] * 4
    layer.eval()
    first, second = layer(x), layer(x)
    assert not decided(layer, x).masked.any()
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_balance_over_a_step_or_each_call():
    # Two levels, each with an expert of its own: balanced together, collapsed
    # one by one. importance loss of (1, 0): variance 1/2, mean^2 1/4 -> 2.
    x = [torch.ones(1, 6, 2, 2), -torch.ones(1, 6, 2, 2)]
    losses = {}
    for over in ('step', 'call'):
        layer = sign_routed(
            balance_over=over,
            soft_constraint=dict(type='ImportanceLoss', weight=1))
        layer(x)
        losses[over] = layer.collect().losses['importance'].item()
    assert losses['step'] == pytest.approx(0, abs=1e-5)
    assert losses['call'] == pytest.approx(2, abs=1e-5)


def test_what_a_sample_counts():
    # One image of 9 positions to expert 0, one of 1 position to expert 1.
    x = [torch.ones(1, 6, 3, 3), -torch.ones(1, 6, 1, 1)]
    importance = {}
    for weight in ('sample', 'area', 'foreground'):
        layer = sign_routed(
            top_k=1, soft_constraint=dict(type='SwitchLoss'),
            balance_weight=weight)
        layer(x)
        if weight == 'foreground':  # 2 positive anchors, and 6
            layer.weigh([torch.tensor([[1, 0, 0, 1, 0, 0, 0, 0, 0]]),
                         torch.tensor([[6]])])
        importance[weight] = layer.collect().importance.tolist()
    assert importance == dict(
        sample=[0.5, 0.5], area=pytest.approx([0.9, 0.1]),
        foreground=[0.25, 0.75])


def test_foreground_that_nobody_tells_is_an_error():
    layer = MoELayer(conv, 6, soft_constraint=dict(type='KLLoss'),
                     balance_weight='foreground')
    layer(levels())
    with pytest.raises(RuntimeError, match="balance_weight='foreground'"):
        layer.collect()


def test_collect_counts_every_call_once():
    # Three samples for expert 0 in one call, one for expert 1 in the other:
    # as a tower that is called level by level. KL of (3/4, 1/4) from uniform.
    layer = sign_routed(top_k=1)
    layer.recording = True
    layer(torch.ones(3, 6, 2, 2))
    layer(-torch.ones(1, 6, 2, 2))
    summary = layer.collect()
    assert summary.importance.tolist() == pytest.approx([0.75, 0.25])
    assert summary.share.tolist() == pytest.approx([0.75, 0.25])
    assert layer.collect() is None


def test_without_a_constraint_nothing_is_kept():
    layer = MoELayer(conv, 6)
    for _ in range(3):
        layer(levels())[0].sum().backward()
    assert layer.collect() is None
    copy.deepcopy(layer)  # fails where a graph is held


def test_balance_is_float32_under_autocast():
    kinds = ('KL', 'Importance', 'Load', 'Switch', 'Entropy', 'RouterZ')
    losses = []
    for half in (False, True):
        torch.manual_seed(0)
        layer = MoELayer(
            conv, 6, noise=True, balance_weight='area',
            soft_constraint=[dict(type=f'{kind}Loss') for kind in kinds],
            hard_constraint=dict(type='MeanImportance', paper_per_call=True))
        with torch.autocast('cpu', torch.bfloat16, enabled=half):
            layer(levels())
            losses.append(layer.collect().losses)
    assert losses[0] == losses[1]


def test_the_loss_trains_the_gate():
    layer = MoELayer(conv, 6, soft_constraint=dict(type='KLLoss'))
    layer(levels())
    sum(layer.collect().losses.values()).backward()
    assert layer.gate.fc_weight.grad.abs().sum() > 0


def test_constraints_that_are_not_collected_are_an_error():
    for constraint in (dict(soft_constraint=dict(type='KLLoss')),
                       dict(hard_constraint=dict(type='MeanImportance'))):
        layer = MoELayer(conv, 6, **constraint)
        with pytest.raises(RuntimeError, match='MoEHook'):
            layer(levels())[0].sum().backward()


def test_a_call_that_is_checkpointed_counts_once():
    # A layer that is called twice in a step, as in two levels: three samples
    # for expert 0 and one for expert 1, and alike without a checkpoint.
    x = [torch.ones(3, 6, 2, 2), -torch.ones(1, 6, 2, 2)]
    gradients = []
    for run in (lambda layer, x: layer(x), partial(
            checkpoint, use_reentrant=False)):
        torch.manual_seed(0)
        layer = sign_routed(soft_constraint=dict(type='KLLoss'))
        runs = []
        layer.observe(runs.append)
        for _ in range(3):
            layer.zero_grad()
            y = [run(layer, level) for level in x]
            summary = layer.collect()
            assert summary.total_importance.tolist() == approx([3, 1])
            loss = sum(v.pow(2).mean() for v in y)
            (loss + summary.losses['kl']).backward()
            assert not layer.recorder.calls
        gradients.append([
            0 if p.grad is None else p.grad.sum().item()
            for p in layer.parameters()
        ])
    assert len(runs) == 12  # each call ran again in the backward pass
    assert any(gradients[0]) and gradients[1] == approx(gradients[0])


def test_a_checkpointed_call_that_is_not_collected_is_an_error():
    layer = MoELayer(conv, 6, soft_constraint=dict(type='KLLoss'))
    x = torch.randn(2, 6, 4, 4)
    for collected in (True, False):
        y = checkpoint(layer, x, use_reentrant=False)
        if collected:
            layer.collect()
            y.sum().backward()
    with pytest.raises(RuntimeError, match='MoEHook'):
        y.sum().backward()


def test_reentrant_checkpointing_is_an_error_in_the_first_step():
    for constraint in (dict(soft_constraint=dict(type='KLLoss')),
                       dict(hard_constraint=dict(type='MeanImportance'))):
        layer = MoELayer(conv, 6, **constraint)
        x = torch.randn(2, 6, 4, 4, requires_grad=True)
        y = checkpoint(layer, x, use_reentrant=True)
        assert layer.collect() is None
        with pytest.raises(RuntimeError, match='use_reentrant=False'):
            y.sum().backward()
    layer = MoELayer(conv, 6)  # without a constraint nothing is lost
    checkpoint(layer, x, use_reentrant=True).sum().backward()


def test_synchronised_batchnorm_is_refused():
    mmcvs = type('SyncBatchNorm', (nn.Module, ), {})
    for norm in (lambda: nn.SyncBatchNorm(6), mmcvs):
        with pytest.raises(ValueError, match='SyncBN'):
            MoELayer(lambda: nn.Sequential(conv(), norm()), 6)  # noqa: B023


def test_experts_in_experts_are_refused():
    with pytest.raises(ValueError, match="expert='MoELayer'"):
        MoELayer(lambda: nn.Sequential(conv(), MoELayer(conv, 6)), 6)


def test_fresh_copies_differ():
    template = nn.Sequential(conv(), nn.BatchNorm2d(6))
    copy = fresh_copy(template)
    assert not torch.equal(copy[0].weight, template[0].weight)


def test_the_core_needs_torch_only():
    # None in sys.modules makes an import fail as if it were not installed.
    code = '''
import sys, warnings
for name in ('mmcv', 'mmengine', 'mmdet'):
    sys.modules[name] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter('always')
    import mmdet_moe.layers
assert any('pip install onedl-mmengine' in str(w.message) for w in caught)
mmdet_moe.layers.MoELayer(lambda: mmdet_moe.layers.moe.nn.Conv2d(4, 4, 1), 4)
try:
    mmdet_moe.models
except ImportError as error:
    assert 'pip install' in str(error)
else:
    raise SystemExit('mmdet_moe.models did not complain')
'''
    done = subprocess.run([sys.executable, '-c', code],
                          capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
