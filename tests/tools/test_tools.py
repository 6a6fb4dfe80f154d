"""Training, testing and upcycling from end to end."""
import fcntl
import json
import shutil

import pytest
import torch
from command import MOE, ROOT, on, tool

CLS, REG = 'bbox_head.cls_subnet', 'bbox_head.reg_subnet'


def test_training_saves_and_logs(trained):
    work_dir, output = trained
    state = torch.load(
        work_dir / 'epoch_1.pth', weights_only=False)['state_dict']
    assert 'bbox_head.cls_subnet.experts.3.2.weight' in state
    log = (next(work_dir.rglob('scalars.json'))).read_text()
    assert 'moe.bbox_head.reg_subnet.share_0' in log
    assert list(work_dir.rglob('events.out.tfevents*'))


def test_resume_goes_on(trained, shapes, tmp_path):
    work_dir = shutil.copytree(trained[0], tmp_path / 'work')
    output = tool('tools/train.py', MOE, '--work-dir', work_dir, '--resume',
                  *on(shapes, 'train_cfg.max_epochs=2'))
    assert 'resumed epoch: 1, iter: 4' in output
    assert (work_dir / 'epoch_2.pth').exists()


def test_test_prints_ap_by_size_and_expert_tables(trained, shapes, tmp_path):
    work_dir, _ = trained
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    output = tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
                  '--out', tmp_path / 'all.pkl',
                  *on(shapes, 'model.test_cfg.score_thr=0.0'))
    assert output.count('Average Precision') == 6
    assert 'area= small' in output
    assert 'expert weight, %' in output
    tables = json.loads((tmp_path / 'expert_assignment.json').read_text())
    assert tables['num_images'] == 8 and set(
        tables['layers']) == {CLS, REG}
    assert (tmp_path / 'all.pkl').exists()


def test_forced_experts(trained, shapes, tmp_path):
    work_dir, _ = trained
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    options = on(shapes, 'model.test_cfg.score_thr=0.0')
    force = 'custom_hooks.0.forcing.{}'
    tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path, *options,
         force.format('layers=*.reg_subnet'), force.format('expert=2'))
    tables = json.loads((tmp_path / 'expert_assignment.json').read_text())
    assert tables['layers'][REG]['importance'] == [0, 0, 1, 0]
    assert sum(tables['layers'][CLS]['share']) == pytest.approx(2)
    for wrong in ('layers=mask', 'expert=4', 'experts=1'):
        output = tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
                      *options, force.format(wrong), ok=False)
        assert 'error: ' in output and wrong.split('=')[0] in output


def test_upcycling(shapes, tmp_path):
    """Dense training, upcycling, and the paper's recipe, with one tool each."""
    dense = tmp_path / 'dense'
    keep = [o for o in on(shapes, 'train_cfg.max_epochs=1')
            if '_evaluator.' not in o]
    keep += [f'{name}_evaluator.ann_file={shapes}/annotations/'
             'instances_val.json' for name in ('val', 'test')]
    tool('tools/train.py', 'configs/retinanet_fpn_shapes.py', '--work-dir',
         dense, *keep)
    upcycle = ['tools/model_converters/upcycle.py', MOE]
    output = tool(*upcycle, dense / 'epoch_1.pth', tmp_path / 'moe.pth')
    assert 'losses and outputs equal' in output
    assert 'bbox_head.cls_subnet.gate.fc_weight' in output
    output = tool(*upcycle, dense / 'epoch_1.pth', tmp_path / 'moe.pth',
                  ok=False)
    assert 'moe.pth is there already' in output
    output = tool(*upcycle, dense / 'epoch_1.pth', tmp_path / 'other.pth',
                  '--cfg-options', 'model.backbone.depth=34', ok=False)
    assert 'error: ' in output and 'backbone.layer1.2.conv1' in output

    # As a user would: a config of a few lines.
    frozen = tmp_path / 'frozen.py'
    frozen.write_text(
        f"_base_ = '{ROOT / MOE}'\n"
        "custom_hooks = [dict(type='MoEHook'), dict(type='FreezeHook')]\n")
    output = tool(
        'tools/train.py', frozen, '--work-dir', tmp_path / 'frozen',
        *on(shapes, 'train_cfg.max_epochs=1',
            'model.init_cfg.type=Upcycle',
            f'model.init_cfg.checkpoint={dense / "epoch_1.pth"}'))
    assert 'frozen  backbone: ' in output
    before = torch.load(dense / 'epoch_1.pth', weights_only=False)
    after = torch.load(tmp_path / 'frozen' / 'epoch_1.pth', weights_only=False)
    for key, value in before['state_dict'].items():
        if key.startswith(('backbone', 'neck')):
            assert torch.equal(value, after['state_dict'][key]), key


def test_a_pruned_training_goes_on(trained, shapes, tmp_path):
    """As docs/guide.md says; --resume alone finds nothing, and says so."""
    pruned = tmp_path / 'pruned.pth'
    epochs = on(shapes, 'train_cfg.max_epochs=2', 'val_cfg=None',
                'val_evaluator=None', 'val_dataloader=None')
    tool('tools/model_converters/prune_experts.py', MOE,
         (trained[0] / 'last_checkpoint').read_text(), pruned,
         '--drop', 'bbox_head.cls_subnet:1')
    output = tool('tools/train.py', pruned.with_suffix('.py'), '--work-dir',
                  tmp_path / 'on', '--resume', pruned, *epochs)
    assert 'Epoch(train) [2]' in output and 'Epoch(train) [1]' not in output
    output = tool('tools/train.py', pruned.with_suffix('.py'), '--work-dir',
                  tmp_path / 'anew', '--resume', *epochs,
                  'train_cfg.max_epochs=1')
    assert f'there is no checkpoint in {tmp_path / "anew"}' in output


def test_a_folder_has_one_training_at_a_time(shapes, tmp_path):
    with (tmp_path / '.training.lock').open('w') as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        output = tool('tools/train.py', MOE, '--work-dir', tmp_path,
                      *on(shapes), ok=False)
    assert output.splitlines()[-1].startswith(
        f'error: another process is at the same work (training) in {tmp_path}')


def test_painted_pictures(trained, shapes, tmp_path):
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    options = on(shapes, 'model.test_cfg.score_thr=0.0',
                 'visualizer.type=ExpertVisualizer')
    tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
         '--show-dir', 'painted', *options, f'visualizer.layer={REG}')
    assert len(list(tmp_path.glob('2*/painted/*.jpg'))) == 8
    assert list(tmp_path.rglob('events.out.tfevents*'))
    output = tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
                  '--show-dir', 'painted', *options, 'visualizer.layer=mask',
                  ok=False)
    assert "ExpertVisualizer.layer='mask'" in output and CLS in output


def test_no_detections_at_all(trained, shapes, tmp_path):
    """Nor in a training with all that looks at its evaluations."""
    config = tmp_path / 'config.py'
    config.write_text(f'''
_base_ = {str(ROOT / MOE)!r}
custom_hooks = [
    dict(type='MoEHook'), dict(type='EMAHook'),
    dict(type='EarlyStoppingHook', monitor='coco/bbox_mAP', patience=1)]
auto_scale_lr = dict(base_batch_size=8)
''')
    output = tool(
        'tools/train.py', config, '--work-dir', tmp_path / 'train',
        '--auto-scale-lr',
        *on(shapes, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=1',
            'model.test_cfg.score_thr=0.999',
            'default_hooks.checkpoint.save_best=coco/bbox_mAP'))
    assert 'No detections at all' in output
    assert 'Skip early stopping' in output and 'Epoch(train) [2]' in output
    assert 'Scaling the original LR by 0.5' in output
    assert not list((tmp_path / 'train').glob('best*'))
    work_dir, _ = trained
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    output = tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
                  *on(shapes, 'model.test_cfg.score_thr=0.999'))
    assert 'No detections at all' in output


def test_missing_data_names_the_folder(tmp_path):
    output = tool(
        'tools/train.py', MOE, '--work-dir', tmp_path / 'w',
        *on(tmp_path / 'nowhere'), ok=False)
    assert 'nowhere/annotations/instances_train.json does not exist' in output
    assert not (tmp_path / 'w').exists()


def test_a_picture_that_cannot_be_read(trained, shapes, tmp_path):
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    (root / 'val' / '000003.jpg').write_bytes(b'not a picture')
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    for workers in (0, 1):
        output = tool(
            'tools/test.py', MOE, checkpoint, '--work-dir', tmp_path / 'w',
            *on(root, f'test_dataloader.num_workers={workers}'), ok=False)
        assert f'error: the picture {root}/val/000003.jpg' in output


@pytest.mark.parametrize('args, message', [
    (['tools/train.py', 'configs/none.py'], 'configs/none.py'),
    (['tools/test.py', MOE, 'none.pth'], 'none.pth does not exist'),
    (['tools/test.py', MOE, 'README.md'], 'README.md is not a checkpoint'),
])
def test_missing_config_and_checkpoint(args, message, shapes, tmp_path):
    output = tool(
        *args, '--work-dir', tmp_path, *on(shapes), ok=False)
    assert 'error: ' in output and message in output


def test_coco_config_on_real_pictures(coco_tiny, tmp_path):
    """The R50 config; data and scale from the outside."""
    options = [
        'model.backbone.init_cfg=None', 'train_cfg.max_epochs=1',
        'train_cfg.val_interval=9', 'train_dataloader.batch_size=20',
        'train_dataloader.dataset.pipeline.2.scale=(64,64)',
        'val_dataloader.dataset.pipeline.1.scale=(64,64)'
    ]
    for name in ('train', 'val'):
        options.append(f'{name}_dataloader.dataset.data_root={coco_tiny}/')
    for i in (0, 1):
        options.append(f'val_evaluator.{i}.ann_file={coco_tiny}'
                       '/annotations/instances_val2017.json')
    tool('tools/train.py', 'configs/retinanet_moe_fpn_coco.py', '--work-dir',
         tmp_path, '--cfg-options', *options)
    assert (tmp_path / 'epoch_1.pth').exists()
