"""Reports and their comparison from end to end."""
import json
import re
import shutil

import pytest
import torch
from command import MOE, ROOT, on, tool
from mmdet.registry import MODELS

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
    assert len(numbers['interventions']) == 2 * (4 + 4 + 12 + 4)
    table = numbers['layers']['bbox_head.cls_subnet']
    objects = table['labelled']
    total = sum(row['count'] for row in objects['size'].values())
    ann_file = shapes / 'annotations' / 'instances_val.json'
    annotated = len(json.loads(ann_file.read_text())['annotations'])
    assert total + objects['unassigned'] == annotated
    lines = (report / 'objects.jsonl').read_text().splitlines()
    assert len(lines) == annotated == numbers['num_labelled']
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
        assert numbers['metrics'][key]['value'] == pytest.approx(
            tested[f'coco/bbox_{name}'], abs=5e-4)
    for name, table in tables['layers'].items():
        mine = numbers['layers'][name]
        assert mine['importance'] == pytest.approx(table['importance'])
        for by in ('size', 'level', 'class'):
            for group, row in table['objects'][by].items():
                ours = mine['labelled'][by][group]
                assert ours['count'] == row['count']
                assert ours['weight'] == (row['weight'] and pytest.approx(
                    row['weight'], abs=1e-6))


def test_comparison(report, shapes, tmp_path):
    dense = tmp_path / 'dense.json'
    dense.write_text(json.dumps({'coco/bbox_mAP': 0.3, 'coco/bbox_mAP_s': -1}))
    output = tool('tools/analysis_tools/compare_reports.py', f'plain={dense}',
                  f'soft={report / "report.json"}', '--out',
                  tmp_path / 'page' / 'comparison.html')
    assert 'plain' in output
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
        assert numbers['metrics']['AP_S']['value'] is None
        page = (tmp_path / 'report.html').read_text()
        assert page.count('Leading experts of') == 3 * 2
        assert message in page


def test_report_needs_experts(trained, shapes, tmp_path):
    checkpoint = tmp_path / 'dense.pth'
    trained_with_4 = (trained[0] / 'last_checkpoint').read_text()
    state = torch.load(trained_with_4, weights_only=False)['state_dict']
    torch.save(dict(state_dict={k: x for k, x in state.items()
                                if 'bbox_head' not in k}), checkpoint)
    output = tool(REPORT, MOE, checkpoint, '--work-dir', tmp_path,
                  *on(shapes), ok=False)
    assert 'does not fit the MoE layer bbox_head.cls_subnet' in output
    assert 'there is no bbox_head.cls_subnet.gate.fc_weight' in output
    output = tool(REPORT, MOE, trained_with_4, '--work-dir', tmp_path,
                  *on(shapes, 'model.bbox_head.moe.num_experts=3'), ok=False)
    assert 'gate.fc_weight should have the shape (3, 64)' in output
    dense = [o.replace('evaluator.0', 'evaluator') for o in on(shapes)
             if 'evaluator.1' not in o]
    output = tool(REPORT, 'configs/retinanet_fpn_shapes.py', checkpoint,
                  '--work-dir', tmp_path, *dense, ok=False)
    assert 'the model has no MoE layer' in output
    output = tool(REPORT, MOE, checkpoint, '--work-dir', tmp_path,
                  '--resamples', 0, *on(shapes), ok=False)
    assert 'resamples=0: allowed is' in output


def test_report_without_detections(trained, shapes, tmp_path):
    checkpoint = (trained[0] / 'last_checkpoint').read_text()
    tool(REPORT, MOE, checkpoint, '--work-dir', tmp_path, *FEW,
         *on(shapes, 'model.test_cfg.score_thr=0.999'))
    page = (tmp_path / 'report.html').read_text()
    assert 'Nothing was detected at all' in page


def test_router_saturation(trained, shapes, tmp_path):
    last = (trained[0] / 'last_checkpoint').read_text()
    other = tmp_path / 'other.pth'
    content = torch.load(last, weights_only=False)
    for key in list(content['state_dict']):
        if 'cls_subnet.gate' in key:  # this gate changes its mind
            content['state_dict'][key] *= -1
    torch.save(content, other)
    output = tool('tools/analysis_tools/router_saturation.py', MOE, other,
                  last, '--work-dir', tmp_path, *on(shapes))
    first, second = output.splitlines()[-3:-1]
    assert 'other.pth' in first and '1.000' in first
    assert second.count('1.000') == 2 and first.count('1.000') == 1
    assert 'does not exist' in tool(
        'tools/analysis_tools/router_saturation.py', MOE, tmp_path / 'no.pth',
        last, *on(shapes), ok=False)


NAMES = ['a$}$b', 'cash_$$', '_background_', 'cut \ud83d', 'x' * 99]


def test_whatever_fails_after_the_test_leaves_its_numbers(
        trained, shapes, tmp_path):
    """And names of classes are drawn as they are: one report of both."""
    root, work = tmp_path / 'shapes', tmp_path / 'work'
    shutil.copytree(shapes, root)
    ann_file = root / 'annotations' / 'instances_val.json'
    content = json.loads(ann_file.read_text())
    for category, name in zip(content['categories'], NAMES):
        category['name'] = name
    ann_file.write_text(json.dumps(content))
    config = tmp_path / 'names.py'
    config.write_text(
        f'_base_ = {str(ROOT / MOE)!r}\n'
        f'test_dataloader = dict(dataset=dict(metainfo=dict('
        f'classes={NAMES})))\n')
    report = [
        REPORT, config, (trained[0] / 'last_checkpoint').read_text(),
        '--work-dir', work, *FEW, '--no-interventions',
        *on(root, 'model.test_cfg.score_thr=0.0')]
    work.mkdir()
    (work / 'figures').write_text('')  # so that no figure can be saved
    said = tool(*report, ok=False).splitlines()[-1]
    assert said.startswith('error: ') and '--resume' in said
    assert 'bbox_head.cls_subnet_usage could not be made: ' in said
    numbers = json.loads((work / 'report.json').read_text())
    assert any('bbox_head.reg_subnet_class could not' in note
               for note in numbers['notes'])
    assert list(numbers['layers']['bbox_head.cls_subnet']['labelled'][
        'class']) == NAMES
    assert 'could not be made' in (work / 'report.html').read_text()
    (work / 'figures').unlink()
    tool(*report[:3], '--resume', *report[3:])
    assert (work / 'figures' / 'bbox_head.cls_subnet_class.pdf').exists()
    assert 'could not be made' not in (work / 'report.json').read_text()
    assert not (work / 'report_parts').exists()
