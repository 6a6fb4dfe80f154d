"""Nothing is tested with a checkpoint of another model."""
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmdet_moe.files import DataError
from mmdet_moe.hooks import CheckpointFitHook
from mmdet_moe.layers import MoELayer


class Model(nn.Module):
    """A layer that decides with what is no parameter, and a head."""

    def __init__(self):
        super().__init__()
        self.moe = MoELayer(
            lambda: nn.Conv2d(2, 2, 1), 2, gate=dict(type='RandomGate'),
            hard_constraint=dict(type='LossFreeBias'))
        self.head = nn.Linear(2, 3)


def load(state, model=None):
    CheckpointFitHook().after_load_checkpoint(
        SimpleNamespace(model=model or Model()), state)


@pytest.mark.parametrize('prefix', ['', 'module.'])
@pytest.mark.parametrize('gone', [
    'gate.fc_weight', 'hard_constraint.selection_bias', 'experts.1.bias'])
def test_a_checkpoint_without(gone, prefix):
    state = {prefix + key: x for key, x in Model().state_dict().items()}
    load(dict(state_dict=state))
    load(state)  # weights alone
    del state[f'{prefix}moe.{gone}']
    with pytest.raises(DataError, match=f'MoE layer moe of this .*moe.{gone}'):
        load(dict(state_dict=state))


@pytest.mark.parametrize('learned, right', [
    (['disc', 'square', 'cross'], False), (('square', 'disc', 'cross'), True),
    (('a', 'b', 'c'), True), (None, True)])
@pytest.mark.parametrize('key', ['dataset_meta', 'CLASSES'])
def test_the_same_classes_in_another_order(learned, right, key):
    classes = ('square', 'disc', 'cross')
    runner = SimpleNamespace(model=Model(), test_dataloader=SimpleNamespace(
        dataset=SimpleNamespace(metainfo=dict(classes=classes))))
    meta = {key: learned if key == 'CLASSES' else dict(classes=learned)}
    state = dict(state_dict=Model().state_dict(), meta=meta)
    if right:
        CheckpointFitHook().after_load_checkpoint(runner, state)
    else:
        with pytest.raises(DataError, match='disc, square.*square, disc'):
            CheckpointFitHook().after_load_checkpoint(runner, state)


def test_another_head():
    state = Model().state_dict()
    state['head.weight'] = torch.zeros(5, 2)
    with pytest.raises(DataError, match=(
            r'head.weight should have the shape \(3, 2\), there is \(5, 2\)')):
        load(dict(state_dict=state))


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', [
    'moe.experts.2.weight', 'moe.hard_constraint.selection_bias'])
def test_weights_that_are_not_finite(name, value):
    state = Model().state_dict()
    state[name].view(-1)[1] = value
    with pytest.raises(DataError, match=f'NaN or Inf in {name}'):
        load(dict(state_dict=state))


def test_a_part_that_is_missing(monkeypatch):
    said = []
    monkeypatch.setattr('mmdet_moe.hooks.checkpoint_fit_hook.print_log',
                        lambda *args: said.append(args))
    state = Model().state_dict()
    total = len(state)
    del state['head.bias']
    load(dict(state_dict=state))
    (text, _, level), = said
    assert text == (f'1 of the {total} weights of the model are not in the '
                    'checkpoint: head.bias')
    assert level == logging.WARNING


class Renaming(Model):
    """Has a hook of its own for what it loads, as some heads do."""

    def __init__(self):
        super().__init__()
        self._register_load_state_dict_pre_hook(self._rename)

    def _rename(self, state, *_):
        for key in [key for key in state if key.startswith('old.')]:
            state[key.removeprefix('old.')] = state.pop(key)
        state['head.weight'] = state['head.weight'][:3]


def test_what_the_model_can_load_fits():
    state = {f'old.{key}': x for key, x in Model().state_dict().items()}
    state['old.head.weight'] = torch.ones(7, 2)
    model = Renaming()
    load(dict(state_dict=state), model)
    assert set(state) == {f'old.{key}' for key in model.state_dict()}
    assert torch.equal(model.head.weight, torch.ones(3, 2))
