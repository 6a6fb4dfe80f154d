"""Classifiers with experts, from config to prediction."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdet_moe.launch import build_runner
from mmdet_moe.layers import moe_layers

pytest.importorskip('mmpretrain')
from mmdet_moe.classification import SuperclassFolder
from mmdet_moe.classification.cifar import write
from mmdet_moe.classification.planted import planted

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cifar100'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp('cifar'),
                 dict(train=planted(64, 0), test=planted(40, 1)))


def small(data, folder, **options):
    cfg = Config.fromfile(CONFIGS / 'resnet18_moe_cifar100.py')
    cfg.merge_from_dict({
        'work_dir': str(folder), 'experiment_name': Path(folder).name,
        'train_cfg.max_epochs': 1, 'model.head.num_classes': 20,
        'model.data_preprocessor.num_classes': 20,
        'model.backbone.stem_channels': 8,
        'model.backbone.base_channels': 8, 'model.head.in_channels': 64,
        **options})
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.update(batch_size=16, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data)
    return cfg


@pytest.mark.parametrize('experts', [
    dict(at='backbone.layer4.1'),
    dict(at='backbone.layer1', residual=True),
    dict(at='backbone.layer4.0', residual=True, shared_expert=True,
         hard_constraint=dict(type='RelativeImportance')),
    dict(at='backbone.layer2.1.conv1', scope=dict(type='PatchScope', grid=2)),
    dict(after='backbone.layer3', scope=dict(type='PositionScope'))],
    ids=['block', 'stage', 'residual', 'conv', 'positions'])
def test_one_epoch(data, tmp_path, experts):
    runner = build_runner(small(data, tmp_path, **{
        'model.experts': [dict(experts, num_experts=4, top_k=2)]}),
        ('train', 'val'))
    (name, layer), = moe_layers(runner.model).items()
    gate = layer.gate.fc_weight.detach().clone()
    runner.train()
    assert not torch.equal(layer.gate.fc_weight, gate)
    logged = runner.message_hub.log_scalars
    assert [key for key in logged if key.endswith('importance_3')]
    assert 0 <= logged['val/accuracy/top1'].current() <= 100
    batch = next(iter(runner.val_loop.dataloader))
    for sample in runner.model.val_step(batch):
        decision = sample.decisions[name]
        totals = decision.weights.sum(dim=1)
        assert torch.allclose(totals, torch.ones(len(totals)))


def test_what_is_refused(data, tmp_path):
    for options, message in (
            ({'model.classifier': ''}, "such as 'ImageClassifier'"),
            ({'model.experts': [dict(at='backbone.layer5')]},
             'accepted: backbone.layer4'),
            ({'model.experts': [dict(at='backbone.layer4', residual=2)]},
             'residual=2: allowed is')):
        with pytest.raises(ValueError, match=message):
            build_runner(small(data, tmp_path, **options), ('train', ))


def test_what_it_costs(data, tmp_path):
    """Multiply-adds of ResNet-18 by hand; a second block of two convolutions
    with experts."""
    pytest.importorskip('mmdet')
    from mmdet_moe.analysis.complexity import complexity, picture_shape
    cfg = Config.fromfile(CONFIGS / 'resnet18_moe_cifar100.py')
    found = complexity(cfg, (32, 32))
    stages = 3 * (64 * 128 * 9 * 256 + 3 * 128 * 128 * 9 * 256 + 64 * 128 * 256)
    dense = 3 * 64 * 9 * 1024 + 4 * 64 * 64 * 9 * 1024 + stages + 512 * 100
    block = 2 * 512 * 512 * 9 * 16
    assert found.twin['model'].flops == 2 * dense
    gate = found.parts['model'].flops - 2 * (dense + block)
    assert 0 < gate < 5000
    assert found.parts['model'].all_experts_flops == 2 * (
        dense + 3 * block) + gate
    with pytest.raises(ValueError, match='--shape=None: allowed is height'):
        complexity(cfg)
    steps = cfg.test_dataloader.dataset.pipeline
    steps.insert(0, dict(type='mmpretrain.CenterCrop', crop_size=24))
    assert picture_shape(cfg, None) == (24, 24)
    steps.insert(0, dict(type='Resize', scale=64, keep_ratio=True))
    assert picture_shape(cfg, None) == (24, 24)
    steps.insert(2, dict(type='ResizeEdge', scale=40))
    with pytest.raises(ValueError, match=r'does not say them \(ResizeEdge\)'):
        picture_shape(cfg, None)


def test_a_folder_of_superclasses(tmp_path):
    cv2 = pytest.importorskip('cv2')
    pictures = planted(40, 0)
    for i, image in enumerate(pictures.images):
        ground = pictures.superclasses[pictures.superlabels[i]]
        folder = tmp_path / ground / pictures.classes[pictures.labels[i]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i}.png'), image[..., ::-1])
    dataset = SuperclassFolder(str(tmp_path))
    assert len(dataset) == 40
    assert dataset.metainfo['superclasses'] == (
        'brick', 'meadow', 'sand', 'water')
    for i in range(40):
        info = dataset.get_data_info(i)
        name = dataset.metainfo['classes'][info['gt_label']]
        assert f'/{name}/' in info['img_path']
        assert name.endswith(
            dataset.metainfo['superclasses'][info['gt_superlabel']])
    with pytest.raises(ValueError, match='in the same order: cross on brick'):
        SuperclassFolder(str(tmp_path), metainfo=dict(classes=('a', 'b')))
