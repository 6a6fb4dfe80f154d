"""A training that is killed again and again, and what becomes of it."""
import multiprocessing
import os
import random
import time
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmdet_moe.launch import build_runner, choose_checkpoint

CONFIG = Path(__file__).parents[1] / 'configs' / 'retinanet_moe_fpn_shapes.py'
EPOCHS = 8
# Loaded once, for all processes that are forked off.
context = multiprocessing.get_context('forkserver')
context.set_forkserver_preload(['mmdet_moe', 'mmdet.models', 'mmdet.datasets'])


def train(work_dir: str, data: str) -> None:
    """Flips, noise of the gates, a hard constraint, EMA; a worker."""
    os.fsync = lambda file: time.sleep(0.1)  # a slow disk
    torch.set_num_threads(1)
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict({
        'model.backbone': dict(base_channels=8, stem_channels=8),
        'model.neck': dict(in_channels=[8, 16, 32, 64], out_channels=16),
        'model.bbox_head': dict(in_channels=16, feat_channels=16),
        'model.bbox_head.moe': dict(
            noise=True, hard_constraint=dict(type='RelativeImportance')),
        'work_dir': work_dir, 'visualizer.vis_backends': [],
        'train_cfg.max_epochs': EPOCHS, 'val_cfg': None,
        'val_dataloader': None, 'val_evaluator': None,
        'default_hooks.checkpoint.max_keep_ckpts': 1,
        'custom_hooks': [dict(type='MoEHook'), dict(type='EMAHook')],
        'train_dataloader': dict(
            batch_size=4, num_workers=1, persistent_workers=True,
            dataset=dict(data_root=f'{data}/', indices=8)),
        'resume': True})
    build_runner(cfg, ('train', )).train()


def start(work_dir: Path, data: Path):
    process = context.Process(target=train, args=(str(work_dir), str(data)))
    process.start()
    return process


def weights(work_dir: Path) -> dict:
    content = torch.load(work_dir / f'epoch_{EPOCHS}.pth', weights_only=False)
    return {**content['state_dict'],
            **{f'ema {k}': v for k, v in content['ema_state_dict'].items()}}


def kill_while_writing(process, work_dir: Path) -> bool:
    """Whether there was a part of a checkpoint when the process died."""
    while process.is_alive() and not list(work_dir.glob('.*.part')):
        time.sleep(0.001)
    process.kill()
    process.join()
    return bool(list(work_dir.glob('.*.part')))


@pytest.mark.parametrize('kills, writing', [
    (6, 1), pytest.param(50, 10, marks=pytest.mark.slow)])
def test_a_killed_training_ends_in_the_same_bits(shapes, tmp_path, kills,
                                                 writing):
    first = context.Process(target=time.time)  # loads what all others have
    first.start()
    first.join()
    begun = time.time()
    process = start(tmp_path / 'whole', shapes)
    process.join()
    took, expected = time.time() - begun, weights(tmp_path / 'whole')
    rng, caught = random.Random(0), 0
    for run in range(kills):
        work_dir = tmp_path / 'killed'
        process = start(work_dir, shapes)
        early = run < 2 * writing
        process.join(rng.uniform(0, took / 4 if early else took))
        if early:
            caught += kill_while_writing(process, work_dir)
        else:
            process.kill()
            process.join()
        there = list(work_dir.glob('epoch_*.pth'))
        if there:  # one of them is whole, whatever was killed
            choose_checkpoint(Config(dict(work_dir=str(work_dir))))
        if (work_dir / f'epoch_{EPOCHS}.pth').exists():
            check(work_dir, expected)
            work_dir.rename(tmp_path / f'ended{run}')
    process = start(work_dir, shapes)
    process.join()
    check(work_dir, expected)
    assert caught >= writing, caught


def check(work_dir: Path, expected: dict) -> None:
    assert len(list(work_dir.glob('epoch_*.pth'))) == 1  # max_keep_ckpts
    found = weights(work_dir)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
