"""A pruned detector is the one with experts dropped, and smaller."""
import json

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmdet_moe.conversion.prune import prune_detector, unneeded
from mmdet_moe.files import DataError
from mmdet_moe.layers import forced, moe_layers
from mmdet_moe.layers.checks import ConfigError

CLS, REG = 'bbox_head.cls_subnet', 'bbox_head.reg_subnet'


@pytest.fixture(scope='module')
def trained(load_config, tmp_path_factory):
    """A checkpoint whose gates go by the picture."""
    torch.manual_seed(0)
    cfg = load_config('retinanet_moe_fpn_shapes')
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    for layer in moe_layers(detector).values():
        torch.nn.init.normal_(layer.gate.fc_weight, std=3)
    path = tmp_path_factory.mktemp('trained') / 'moe.pth'
    torch.save(dict(state_dict=detector.state_dict(),
                    meta=dict(dataset_meta=dict(classes=('disc', )))), path)
    return path, detector.eval()


def prune(load_config, checkpoint, out, drop, config=None):
    config = config or str(load_config('retinanet_moe_fpn_shapes').filename)
    return prune_detector(
        Config.fromfile(config), config, str(checkpoint), str(out), drop)


def test_equals_dropping(load_config, trained, tmp_path):
    checkpoint, detector = trained
    drop = {CLS: [1, 3], REG: [0]}
    said = prune(load_config, checkpoint, tmp_path / 'a.pth', drop)
    assert 'losses and outputs equal' in said and 'parameters became' in said
    cfg = Config.fromfile(tmp_path / 'a.py')
    assert cfg.model.pruned == {CLS: [0, 2], REG: [1, 2, 3]}
    assert cfg.load_from == str(tmp_path / 'a.pth')
    pruned = MODELS.build(cfg.model).eval()
    content = torch.load(cfg.load_from)
    assert content['meta']['dataset_meta']['classes'] == ('disc', )
    pruned.load_state_dict(content['state_dict'])
    x = torch.randn(2, 3, 96, 128)
    with torch.no_grad(), forced(detector, layers=CLS, drop=[1, 3]), forced(
            detector, layers=REG, drop=[0]):
        expected = detector(x)
        for a, b in zip(pruned(x), expected):
            for one, two in zip(a, b):
                torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)
    # once more, with the numbers of the pruned one: 2 is the 3 of before
    prune(load_config, cfg.load_from, tmp_path / 'b.pth', {REG: [2]},
          str(tmp_path / 'a.py'))
    again = Config.fromfile(tmp_path / 'b.py')
    assert again.model.pruned == {CLS: [0, 2], REG: [1, 2]}
    assert moe_layers(MODELS.build(again.model))[REG].num_experts == 2


@pytest.mark.parametrize('drop, message', [
    ({CLS: [0, 1, 2]}, r'keep=\[3\]: allowed is at least top_k=2'),
    ({'cls_subnet': [0]}, f'drop=.cls_subnet.: .*there are {CLS}'),
    ({CLS: [4]}, f'drop, {CLS}=4: allowed is an expert from 0 to 3'),
    ({}, 'no expert to prune'),
])
def test_what_cannot_be_pruned(load_config, trained, tmp_path, drop, message):
    with pytest.raises(ValueError, match=message):
        prune(load_config, trained[0], tmp_path / 'a.pth', drop)
    assert not list(tmp_path.iterdir())


def test_files(load_config, trained, tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'other.pth')
    with pytest.raises(DataError, match='other.pth is not of this detector'):
        prune(load_config, tmp_path / 'other.pth', tmp_path / 'a.pth',
              {CLS: [0]})
    (tmp_path / 'a.py').write_text('')
    with pytest.raises(DataError, match='a.py is there already'):
        prune(load_config, trained[0], tmp_path / 'a.pth', {CLS: [0]})


def test_what_a_report_says_is_not_needed(tmp_path):
    """Of four experts with K = 2 at most two can go."""
    losses = {0: 5.0, 1: 0.02, 2: 0.03, 3: -1.0}  # points, upper ends
    (tmp_path / 'report.json').write_text(json.dumps(dict(
        words=dict(metric='AP'), layers={CLS: dict(experts=4, top_k=2)},
        interventions=[
            dict(layer=CLS, kind='drop', value=e,
                 difference=dict(AP=dict(interval=dict(low=-loss / 100))))
            for e, loss in losses.items()
        ])))
    report = str(tmp_path / 'report.json')
    assert unneeded(report, 0.1) == {CLS: [3, 1]}
    assert unneeded(report, 0.01) == {CLS: [3]}
    for nothing in (-1, float('nan')):
        with pytest.raises(ConfigError, match='max_loss=.*at least 0'):
            unneeded(report, nothing)
    needed = tmp_path / 'needed.json'
    needed.write_text(json.dumps(dict(
        words=dict(metric='AP'), layers={CLS: dict(experts=4, top_k=2)},
        interventions=[dict(layer=CLS, kind='drop', value=0, difference=dict(
            AP=dict(interval=dict(low=-0.2))))])))
    with pytest.raises(ConfigError, match='max_loss=0.5: .*no expert can go'):
        unneeded(str(needed), 0.5)
    (tmp_path / 'none.json').write_text('{}')
    with pytest.raises(DataError, match='none.json is no report'):
        unneeded(str(tmp_path / 'none.json'), 1)


@pytest.mark.parametrize('paramwise', [None, dict(
    custom_keys={'gate': dict(lr_mult=0.1)}, norm_decay_mult=0.0)])
def test_a_training_goes_on_without_the_experts(load_config, tmp_path,
                                                paramwise):
    """The moments of what stays are where they were."""
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.optim_wrapper.paramwise_cfg = paramwise
    cfg.dump(tmp_path / 'config.py')
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    optimizer = wrapper.optimizer
    for i, group in enumerate(optimizer.param_groups):
        group['lr'] = i / 1000
    sum(p.square().sum() * (1 + i) for i, p in enumerate(
        model.parameters())).backward()
    optimizer.step()
    average = {f'module.{k}': v for k, v in model.state_dict().items()}
    torch.save(dict(
        state_dict=model.state_dict(), optimizer=wrapper.state_dict(),
        ema_state_dict=dict(average, steps=torch.tensor(3)),
        param_schedulers=[dict(last_step=8, base_values=[
            *(g['lr'] for g in optimizer.param_groups), 7.0])],
        message_hub=dict(runtime_info=dict(cfg='the old one', epoch=1)),
        meta=dict(epoch=1, iter=8)), tmp_path / 'epoch_1.pth')
    prune(load_config, tmp_path / 'epoch_1.pth', tmp_path / 'a.pth',
          {CLS: [1, 3]}, str(tmp_path / 'config.py'))

    content = torch.load(tmp_path / 'a.pth')
    assert (content['meta']['epoch'], content['meta']['iter']) == (1, 8)
    pruned = MODELS.build(Config.fromfile(tmp_path / 'a.py').model)
    pruned.load_state_dict(content['state_dict'])
    assert content['ema_state_dict'].pop('steps') == 3
    assert {k.removeprefix('module.') for k in content['ema_state_dict']
            } == set(pruned.state_dict())
    for text in (content['meta']['cfg'],
                 content['message_hub']['runtime_info']['cfg']):
        assert 'pruned' in text
    again = build_optim_wrapper(pruned, cfg.optim_wrapper)
    again.load_state_dict(content['optimizer'])
    after = again.optimizer
    scheduler, = content['param_schedulers']
    assert scheduler['base_values'] == [
        *(g['lr'] for g in after.param_groups), 7.0]
    before = {name: (optimizer.state[p], group['lr'])
              for name, p in model.named_parameters()
              for group in optimizer.param_groups
              if any(p is q for q in group['params'])}
    for name, p in pruned.named_parameters():
        lr = next(g['lr'] for g in after.param_groups
                  if any(p is q for q in g['params']))
        old = name.replace(f'{CLS}.experts.1.', f'{CLS}.experts.2.')
        moment, expected = (x['exp_avg'] for x in (
            after.state[p], before[old][0]))
        if f'{CLS}.gate' in name:
            expected = expected[[0, 2]]
        assert torch.equal(moment, expected), name
        assert lr == before[old][1]
