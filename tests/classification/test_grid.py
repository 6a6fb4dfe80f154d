"""The whole of the paper's grid: each is built, and takes a step."""
from pathlib import Path

import pytest
from mmengine.config import Config

from mmdet_moe.launch import build_runner

pytest.importorskip('mmpretrain')
from mmdet_moe.classification.cifar import write
from mmdet_moe.classification.planted import planted
from mmdet_moe.sweep import runs_of

GRID = str(Path(__file__).parents[2] / 'configs' / 'cifar100' / 'grid.py')


def one_step(config: Config, data: Path, folder: Path) -> None:
    config.merge_from_dict({
        'work_dir': str(folder), 'experiment_name': folder.name,
        'model.head.num_classes': 20,
        'model.data_preprocessor.num_classes': 20, 'val_cfg': None,
        'val_dataloader': None, 'val_evaluator': None,
        'train_cfg': dict(by_epoch=True, max_epochs=1),
        'default_hooks.checkpoint': None})
    config.train_dataloader.update(
        batch_size=8, num_workers=0, persistent_workers=False)
    config.train_dataloader.dataset.data_root = str(data)
    runner = build_runner(config, ('train', ))
    runner.train()
    assert runner.iter == 1


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp('cifar'),
                 dict(train=planted(8, 0), test=planted(8, 1)))


def test_the_grid_has_96_cells():
    runs = runs_of(GRID)
    assert len({run.name for run in runs}) == len(runs) == 97
    by_name = {run.name: run.config.model for run in runs}
    experts, = by_name['mean_p2_e10_residual'].experts
    assert experts == dict(
        at='backbone.layer2.1', num_experts=10, top_k=2, soft_constraint=None,
        hard_constraint=dict(type='MeanImportance', threshold=0.1),
        residual=True)


@pytest.mark.slow
@pytest.mark.parametrize('run', runs_of(GRID), ids=lambda run: run.name)
def test_each_cell_takes_a_step(run, data, tmp_path):
    one_step(run.config, data, tmp_path / run.name)


def test_resnet_50_takes_a_step(data, tmp_path):
    config = Config.fromfile(Path(GRID).with_name('resnet50_moe_cifar100.py'))
    config.model.backbone.update(stem_channels=8, base_channels=8)
    config.model.head.in_channels = 256
    one_step(config, data, tmp_path)
