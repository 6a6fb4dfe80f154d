"""The tools from end to end, on a few generated pictures."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmdet.registry import MODELS

ROOT = Path(__file__).parents[1]
MOE = 'configs/retinanet_moe_fpn_shapes.py'


def tool(*args, ok=True):
    done = subprocess.run([sys.executable, *map(str, args)],
                          cwd=ROOT,
                          capture_output=True,
                          text=True)
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output[-4000:]
    if not ok:
        assert 'Traceback' not in output, output[-4000:]
    return output


def on(root, *more):
    """--cfg-options that put the shapes config on another folder."""
    loaders = [
        f'{name}_dataloader.dataset.data_root={root}/'
        for name in ('train', 'val', 'test')
    ]
    metrics = [
        f'{name}_evaluator.{i}.ann_file={root}/annotations/instances_val.json'
        for name in ('val', 'test') for i in (0, 1)
    ]
    return [
        '--cfg-options', *loaders, *metrics, 'train_dataloader.batch_size=4',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'val_dataloader.num_workers=0',
        'val_dataloader.persistent_workers=False',
        'test_dataloader.num_workers=0',
        'test_dataloader.persistent_workers=False', *more
    ]


@pytest.fixture(scope='module')
def trained(shapes, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('work')
    output = tool('tools/train.py', MOE, '--work-dir', work_dir,
                  *on(shapes, 'train_cfg.max_epochs=1'))
    return work_dir, output


def test_training_saves_and_logs(trained):
    work_dir, output = trained
    state = torch.load(
        work_dir / 'epoch_1.pth', weights_only=False)['state_dict']
    assert 'bbox_head.cls_subnet.experts.3.2.weight' in state
    log = (next(work_dir.rglob('scalars.json'))).read_text()
    assert 'moe/bbox_head.reg_subnet/share_0' in log
    assert list(work_dir.rglob('events.out.tfevents*'))


def test_resume_goes_on(trained, shapes):
    work_dir, _ = trained
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
        tables['layers']) == {'cls', 'reg'}
    assert (tmp_path / 'all.pkl').exists()


def test_forced_experts(trained, shapes, tmp_path):
    work_dir, _ = trained
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    options = on(shapes, 'model.test_cfg.score_thr=0.0')
    force = 'custom_hooks.0.forcing.{}'
    tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path, *options,
         force.format('layers=*.reg_subnet'), force.format('expert=2'))
    tables = json.loads((tmp_path / 'expert_assignment.json').read_text())
    assert tables['layers']['reg']['importance'] == [0, 0, 1, 0]
    assert sum(tables['layers']['cls']['share']) == pytest.approx(2)
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
    assert 'bbox_head.cls_subnet.gate.weight' in output
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


REPORT = 'tools/analysis_tools/expert_report.py'
FEW = ['--pictures', 3, '--resamples', 20, '--permutations', 19]


@pytest.fixture(scope='module')
def report(trained, shapes, tmp_path_factory):
    """The folder that a report was written to."""
    folder = tmp_path_factory.mktemp('report')
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    output = tool(REPORT, MOE, checkpoint, '--work-dir', folder, *FEW,
                  *on(shapes, 'model.test_cfg.score_thr=0.0'))
    assert 'bbox_head.reg_subnet' in output and 'AP_S' in output
    return folder


def no_constants(name):
    raise AssertionError(f'{name} in a table')


def test_report(report, shapes):
    page = (report / 'report.html').read_text()
    assert page.count('<figure class="picture">') == 3
    assert 'http' not in page.split('id="config"')[0]  # self-contained
    words = re.sub('base64,[^"]*', '', page.split('id="config"')[0])
    assert not re.findall(r'\b(?:nan|inf|none\.)\b', words, re.IGNORECASE)
    numbers = json.loads((report / 'report.json').read_text(),
                         parse_constant=no_constants)
    assert len(numbers['interventions']) == 2 * (4 + 4 + 4)
    table = numbers['layers']['bbox_head.cls_subnet']
    objects = table['objects']
    total = sum(row['count'] for row in objects['size'].values())
    ann_file = shapes / 'annotations' / 'instances_val.json'
    annotated = len(json.loads(ann_file.read_text())['annotations'])
    assert total + objects['unassigned'] == annotated
    lines = (report / 'objects.jsonl').read_text().splitlines()
    assert len(lines) == annotated == numbers['num_objects']
    questions = [(row['of'], row['given_level'])
                 for row in table['specialisation']]
    assert ('size', True) in questions and ('class', False) in questions
    figures = {p.name for p in (report / 'figures').iterdir()}
    for name in ('usage', 'interventions', 'training', 'level'):
        for kind in ('png', 'pdf'):
            assert f'bbox_head.reg_subnet_{name}.{kind}' in figures


def test_report_says_what_tools_test_says(report, trained, shapes, tmp_path):
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
         *on(shapes, 'model.test_cfg.score_thr=0.0'))
    tested = json.loads(next(tmp_path.glob('2*/*.json')).read_text())
    tables = json.loads((tmp_path / 'expert_assignment.json').read_text())
    numbers = json.loads((report / 'report.json').read_text())
    for key, name in (('AP', 'mAP'), ('AP_S', 'mAP_s'), ('AP_L', 'mAP_l')):
        assert numbers['ap'][key]['value'] == pytest.approx(
            tested[f'coco/bbox_{name}'], abs=5e-4)
    for name, table in tables['layers'].items():
        mine = numbers['layers'][f'bbox_head.{name}_subnet']
        assert mine['importance'] == pytest.approx(table['importance'])
        for by in ('size', 'level', 'class'):
            for group, row in table['objects'][by].items():
                ours = mine['objects'][by][group]
                assert ours['count'] == row['count']
                assert ours['weight'] == (row['weight'] and pytest.approx(
                    row['weight'], abs=1e-6))


def test_comparison(report, trained, shapes, tmp_path):
    dense = tmp_path / 'dense.json'
    dense.write_text(json.dumps({'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_s': -1}))
    output = tool('tools/analysis_tools/compare_reports.py', f'plain={dense}',
                  f'soft={report / "report.json"}', '--out',
                  tmp_path / 'page' / 'comparison.html')
    assert 'plain' in output and '4 of 4' in output
    page = (tmp_path / 'page' / 'comparison.html').read_text()
    assert 'bbox_head.cls_subnet' in page and 'http' not in page
    assert (tmp_path / 'page' / 'figures' / 'tradeoff.pdf').exists()
    other = tmp_path / 'other.json'
    other.write_text(json.dumps(dict(
        json.loads((report / 'report.json').read_text()), test_set='x')))
    for wrong, message in (([dense, dense], 'two runs have the name'),
                           ([f'a={report / "report.json"}', f'b={other}'],
                            'were tested on different pictures'),
                           ([tmp_path / 'none.json'], 'none.json does not'),
                           ([ROOT / 'setup.cfg'], 'setup.cfg is not valid'),
                           ([next(shapes.rglob('*_val.json'))], 'neither')):
        output = tool('tools/analysis_tools/compare_reports.py', *wrong,
                      '--out', tmp_path / 'x.html', ok=False)
        assert 'error: ' in output and message in output


def test_report_on_data_with_gaps(trained, shapes, load_config, tmp_path):
    """Large circles only; a log that was cut off; decisions by patch."""
    work_dir, _ = trained
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    ann_file = root / 'annotations' / 'instances_val.json'
    content = json.loads(ann_file.read_text())
    kept = content['annotations'][0]['category_id']
    content['annotations'] = [
        dict(a, area=96**2) for a in content['annotations']
        if a['category_id'] == kept
    ]
    ann_file.write_text(json.dumps(content))
    log = tmp_path / 'scalars.json'
    log.write_bytes(next(work_dir.rglob('scalars.json')).read_bytes()[:-30])
    by_patch = {'model.bbox_head.moe.scope.type': 'PatchScope',
                'model.bbox_head.norm_cfg': None}
    cfg = load_config('retinanet_moe_fpn_shapes')
    cfg.merge_from_dict(by_patch)
    checkpoint = tmp_path / 'untrained.pth'
    torch.save(MODELS.build(cfg.model).state_dict(), checkpoint)
    for annotations, message in ((content['annotations'],
                                  'No test picture has a small object'),
                                 ([], 'have no annotated object')):
        ann_file.write_text(json.dumps(dict(content,
                                            annotations=annotations)))
        tool(REPORT, MOE, checkpoint, '--work-dir', tmp_path, *FEW, '--log',
             log, '--no-interventions',
             *on(root, *(f'{k}={v}' for k, v in by_patch.items())))
        numbers = json.loads((tmp_path / 'report.json').read_text(),
                             parse_constant=no_constants)
        notes = ' '.join(numbers['notes'])
        assert message in notes and 'is cut off or broken' in notes
        assert numbers['ap']['AP_S']['value'] is None
        page = (tmp_path / 'report.html').read_text()
        assert page.count('Leading expert of each patch of') == 3 * 2
        assert message in page


def test_report_needs_experts(trained, shapes, tmp_path):
    checkpoint = tmp_path / 'dense.pth'
    torch.save(dict(state_dict={'backbone.conv1.weight': torch.zeros(1)}),
               checkpoint)
    output = tool(REPORT, MOE, checkpoint, '--work-dir', tmp_path,
                  *on(shapes), ok=False)
    assert 'does not fit the MoE layer bbox_head.cls_subnet' in output
    assert 'shape (4, 64), there is nothing' in output
    trained_with_4 = (trained[0] / 'last_checkpoint').read_text()
    output = tool(REPORT, MOE, trained_with_4, '--work-dir', tmp_path,
                  *on(shapes, 'model.bbox_head.moe.num_experts=3'), ok=False)
    assert 'gate.weight should have the shape (3, 64)' in output
    dense = [o.replace('evaluator.0', 'evaluator') for o in on(shapes)
             if 'evaluator.1' not in o]
    output = tool(REPORT, 'configs/retinanet_fpn_shapes.py', checkpoint,
                  '--work-dir', tmp_path, *dense, ok=False)
    assert 'the model has no MoE layer' in output
    output = tool(REPORT, MOE, checkpoint, '--work-dir', tmp_path,
                  '--resamples', 0, *on(shapes), ok=False)
    assert 'resamples=0: allowed is' in output


def test_painted_pictures(trained, shapes, tmp_path):
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    options = on(shapes, 'model.test_cfg.score_thr=0.0',
                 'visualizer.type=ExpertVisualizer')
    tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
         '--show-dir', 'painted', *options, 'visualizer.layer=reg')
    assert len(list(tmp_path.glob('2*/painted/*.jpg'))) == 8
    assert list(tmp_path.rglob('events.out.tfevents*'))
    output = tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
                  '--show-dir', 'painted', *options, 'visualizer.layer=mask',
                  ok=False)
    assert "ExpertVisualizer.layer='mask'" in output and "'cls'" in output


def test_no_detections_at_all(trained, shapes, tmp_path):
    tool('tools/train.py', MOE, '--work-dir', tmp_path / 'train',
         *on(shapes, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1',
             'model.test_cfg.score_thr=0.999',
             'default_hooks.checkpoint.save_best=coco/bbox_mAP'))
    work_dir, _ = trained
    checkpoint = (work_dir / 'last_checkpoint').read_text()
    output = tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
                  *on(shapes, 'model.test_cfg.score_thr=0.999'))
    assert 'No detections at all' in output
    tool(REPORT, MOE, checkpoint, '--work-dir', tmp_path, *FEW,
         *on(shapes, 'model.test_cfg.score_thr=0.999'))
    assert 'Nothing was detected at all' in (
        tmp_path / 'report.html').read_text()


def test_missing_data_names_the_folder(tmp_path):
    output = tool(
        'tools/train.py', MOE, '--work-dir', tmp_path / 'w',
        *on(tmp_path / 'nowhere'), ok=False)
    assert 'nowhere/annotations/instances_train.json does not exist' in output
    assert not (tmp_path / 'w').exists()


def test_a_picture_that_cannot_be_read(shapes, tmp_path):
    root = tmp_path / 'shapes'
    shutil.copytree(shapes, root)
    (root / 'val' / '000003.jpg').write_bytes(b'not a picture')
    checkpoint = tmp_path / 'x.pth'
    torch.save(dict(state_dict={}), checkpoint)
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
