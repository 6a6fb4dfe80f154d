"""Going on with a training that was interrupted, or testing what it left."""
import itertools
import shutil
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS

from mmdet_moe.files import DataError
from mmdet_moe.launch import (
    build_runner,
    choose_checkpoint,
    use_mixed_precision,
)
from mmdet_moe.resuming import keep_safe

RUNS = itertools.count()  # runs of one name would share a log
SMALL = {
    'model.backbone': dict(base_channels=8, stem_channels=8),
    'model.neck': dict(in_channels=[8, 16, 32, 64], out_channels=16),
    'model.bbox_head': dict(in_channels=16, feat_channels=16)
}


@pytest.fixture(scope='module')
def config(load_config, shapes, tmp_path_factory):
    """A config by work folder; it starts from a dense checkpoint."""
    dense = tmp_path_factory.mktemp('dense') / 'dense.pth'
    twin = load_config('retinanet_fpn_shapes')
    twin.merge_from_dict(SMALL)
    torch.save(MODELS.build(twin.model).state_dict(), dense)

    def make(work_dir, epochs, **options):
        cfg = load_config('retinanet_moe_fpn_shapes')
        cfg.merge_from_dict({
            **SMALL, 'work_dir': str(work_dir),
            'experiment_name': f'resume_{next(RUNS)}',
            'model.init_cfg': dict(
                type='Upcycle', checkpoint=str(dense), noise=0.0),
            'visualizer.vis_backends': [],
            'train_cfg.max_epochs': epochs,
            **options
        })
        # A part's own weights are not needed either.
        cfg.model.backbone.init_cfg = dict(
            type='Pretrained', checkpoint='none.pth')
        for name, batch in (('train', 4), ('test', 8)):
            cfg[f'{name}_dataloader'].update(
                batch_size=batch, num_workers=0, persistent_workers=False)
            cfg[f'{name}_dataloader'].dataset.update(
                data_root=f'{shapes}/', indices=4)
        ann_file = shapes / 'annotations' / 'instances_val.json'
        cfg.test_evaluator = dict(
            type='CocoMetric', metric='bbox', ann_file=str(ann_file))
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        return cfg

    make.dense = dense
    return make


@pytest.fixture(scope='module')
def finished(config, tmp_path_factory):
    """The folder of a training of two steps; its dense checkpoint is gone."""
    folder = tmp_path_factory.mktemp('finished')
    build_runner(config(folder, 2), ('train', )).train()
    config.dense.unlink()
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of it, at another place, to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / 'work'))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def hole(path: Path) -> None:
    """As after a power failure: the right size, and zeros inside."""
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(4096) + content[middle + 4096:])


def test_a_checkpoint_that_was_cut_off_is_passed_over(config, folder):
    cut_off(folder / 'epoch_2.pth')
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
    runner = build_runner(config(folder, 1, resume=True), ('train', ))
    runner.train()  # as many epochs as there are already
    assert runner.epoch == 1
    content = torch.load(folder / 'epoch_1.pth', weights_only=False)
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, content['state_dict'][key]), key
    log = Path(runner._log_dir, f'{runner.timestamp}.log').read_text()
    assert f'not upcycled from {config.dense}' in log
    lines = [row for row in log.splitlines() if 'resuming from' in row]
    assert len(lines) == 1 and lines[0].endswith(
        f'resuming from {folder}/epoch_1.pth, the newest whole checkpoint; '
        f'{folder}/epoch_2.pth is not whole')


@pytest.mark.parametrize('damage, taken', [
    (lambda path: None, 2),
    (hole, 1),
    (Path.unlink, 1),
])
def test_a_damaged_checkpoint(config, folder, damage, taken):
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_2.pth'))
    damage(folder / 'epoch_2.pth')
    cfg = config(folder, 1, resume=True)
    choose_checkpoint(cfg)
    assert cfg.load_from == str(folder / f'epoch_{taken}.pth')


@pytest.mark.parametrize('last, taken', [
    ('', 10),
    ('/gone/e.pth', 10),
    ('/moved/from/here/epoch_9.pth', 9),
])
def test_without_what_last_checkpoint_names(config, folder, last, taken):
    (folder / 'last_checkpoint').write_text(last)
    for name in ('epoch_10', 'epoch_9', 'best_coco_epoch_30', 'epoch_20-1a2b'):
        shutil.copy2(folder / 'epoch_2.pth', folder / f'{name}.pth')
    cfg = config(folder, 1, resume=True)
    choose_checkpoint(cfg)
    # All were written at the same time.
    assert cfg.load_from == str(folder / f'epoch_{taken}.pth')


def test_no_checkpoint_is_whole(config, folder):
    cut_off(folder / 'epoch_1.pth')
    cut_off(folder / 'epoch_2.pth')
    (folder / 'last_checkpoint').write_text('gone.pth')
    with pytest.raises(DataError) as error:
        build_runner(config(folder, 1, resume=True), ('train', ))
    for words in ('gone.pth is missing', 'epoch_1.pth is not whole',
                  'epoch_2.pth is not whole', f'remove {folder} or leave out'):
        assert words in str(error.value)
    named = config(folder, 1, resume=True,
                   load_from=str(folder / 'epoch_2.pth'))
    with pytest.raises(DataError, match='epoch_2.pth is not complete'):
        build_runner(named, ('train', ))


def test_nothing_to_resume_needs_the_dense_checkpoint(
        config, finished, tmp_path):
    runner = build_runner(config(tmp_path, 1, resume=True), ('train', ))
    with pytest.raises(DataError, match='dense.pth does not exist'):
        runner.train()


def test_with_nothing_to_resume_a_training_begins_as_it_would(
        config, finished, tmp_path):
    weights = str(finished / 'epoch_2.pth')
    cfg = config(tmp_path, 1, resume=True, begin_with=weights)
    build_runner(cfg, ('train', ))
    assert cfg.load_from == weights and not cfg.resume
    cfg = config(tmp_path, 1, resume=True, begin_with=weights,
                 runner_type='FlexibleRunner')
    assert choose_checkpoint(cfg) is None
    assert cfg.load_from == weights and not cfg.resume


@pytest.mark.parametrize('last', ['', None])
def test_checkpoints_that_are_kept_elsewhere(config, folder, tmp_path, last):
    if last is not None:
        (folder / 'last_checkpoint').write_text(last)
    cfg = config(tmp_path / 'elsewhere' / folder.name, 1, resume=True)
    cfg.default_hooks.checkpoint.out_dir = str(folder.parent)
    choose_checkpoint(cfg)
    assert cfg.load_from == str(folder / 'epoch_2.pth')


def test_what_is_added_does_not_contradict_the_config(config, tmp_path):
    cfg = config(tmp_path, 1)
    cfg.default_hooks.checkpoint.file_client_args = dict(backend='disk')
    keep_safe(cfg)
    assert 'backend_args' not in cfg.default_hooks.checkpoint
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    use_mixed_precision(cfg)
    amp = torch.cuda.is_available()
    assert ('loss_scale' in cfg.optim_wrapper) == amp


def test_testing_does_not_need_the_dense_checkpoint(config, finished):
    checkpoint = str(finished / 'epoch_2.pth')
    runner = build_runner(
        config(finished, 2, load_from=checkpoint), ('test', ))
    runner.test()
    state = torch.load(checkpoint, weights_only=False)['state_dict']
    for key, value in runner.model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('name', ['train', 'test'])
def test_a_loader_without_a_batch(config, tmp_path, name):
    cfg = config(tmp_path, 1)
    cfg[f'{name}_dataloader'].update(batch_size=5, drop_last=True)
    with pytest.raises(DataError, match=f'{name}_dataloader gives no batch: it '
                       'has 4 images for a process, batch_size=5'):
        build_runner(cfg, (name, ))
