"""The report of a classifier."""
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import BROWSER, opened
from mmengine.config import Config

from mmdet_moe.files import DataError
from mmdet_moe.launch import build_runner

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample

from mmdet_moe.analysis.report import write_report
from mmdet_moe.analysis.subjects.accuracy import Accuracy
from mmdet_moe.analysis.subjects.pictures import LabelledPictures
from mmdet_moe.analysis.tables import Options
from mmdet_moe.classification import SuperclassCIFAR100
from mmdet_moe.classification.cifar import write
from mmdet_moe.classification.planted import SHAPES, planted

CONFIGS = Path(__file__).parents[2] / 'configs' / 'cifar100'


def config(data, folder, **options):
    cfg = Config.fromfile(CONFIGS / 'resnet18_moe_planted.py')
    cfg.merge_from_dict({
        'work_dir': str(folder), 'experiment_name': Path(folder).name,
        'train_cfg': dict(max_epochs=1, val_interval=1),
        'model.backbone.stem_channels': 8,
        'model.backbone.base_channels': 8, 'model.head.in_channels': 64,
        **options})
    for part in ('train', 'val', 'test'):
        loader = cfg[f'{part}_dataloader']
        loader.update(batch_size=16)
        loader.dataset.data_root = str(data)
    return cfg


@pytest.mark.parametrize('experts', [
    dict(at='backbone.layer4.1'),
    dict(at='backbone.layer3.1', scope=dict(type='PatchScope', grid=2))],
    ids=['pictures', 'patches'])
def test_a_report(tmp_path, experts):
    data = write(tmp_path / 'data',
                 dict(train=planted(64, 0), test=planted(40, 1)))
    options = {'model.experts': [dict(experts, num_experts=3, top_k=2)]}
    build_runner(config(data, tmp_path / 'run', **options),
                 ('train', 'val')).train()
    cfg = config(data, tmp_path / 'report', **options)
    cfg.load_from = str(tmp_path / 'run' / 'epoch_1.pth')
    runner = build_runner(cfg, ('test', ))
    write_report(runner, Options(resamples=9, permutations=19), pictures=4)
    numbers = json.loads((tmp_path / 'report' / 'report.json').read_text())
    rows = [json.loads(row) for row in
            (tmp_path / 'report' / 'pictures.jsonl').open()]
    right = np.mean([row['label'] == row['predicted'] for row in rows])
    assert len(rows) == numbers['num_images'] == 40
    assert numbers['metrics']['accuracy']['value'] == pytest.approx(right)
    tested = build_runner(config(data, tmp_path / 'test', load_from=str(
        cfg.load_from), **options), ('test', )).test()
    assert tested['accuracy/top1'] == pytest.approx(100 * right)
    (name, table), = numbers['layers'].items()
    assert name == experts['at']
    weights = np.array([row['weights'][name] for row in rows])
    for ground in range(4):
        expected = weights[[row['label'].split(' on ')[1] == list(
            table['labelled']['superclass'])[ground] for row in rows]]
        row = [*table['labelled']['superclass'].values()][ground]
        assert row['weight'] == pytest.approx(expected.mean(axis=0), abs=1e-5)
        assert row['count'] == 2 * len(SHAPES)
    assert table['importance'] == pytest.approx(
        weights.mean(axis=0), abs=1e-5)
    assert [row['of'] for row in table['specialisation']] == [
        'superclass', 'class']
    kinds = {(row['kind'], row['value']) for row in numbers['interventions']
             if row['kind'] != 'replace'}
    assert kinds == {*(('expert', e) for e in range(3)),
                     *(('drop', e) for e in range(3)),
                     *(('top_k', k) for k in (1, 2, 3))}
    page = (tmp_path / 'report' / 'report.html').read_text()
    assert 'object' not in page.split('Configuration</h2>')[0]
    if BROWSER is not None:
        check_filters(page, tmp_path)
    assert 'meadow, % (10 pictures)' in (
        tmp_path / 'report' / 'report.txt').read_text()


def check_filters(page, folder):
    """As if somebody chose two values: of 40 pictures four are shown, one of
    each superclass."""
    filtered = folder / 'filtered.html'
    filtered.write_text(page.replace('</body>', """<script>
const form = document.getElementById('filters');
form.elements.kind.value = 'labelled';
form.elements.superclass.value = 'brick';
form.dispatchEvent(new Event('change'));
</script></body>"""))
    for path, said in (
        (folder / 'report' / 'report.html', '4 shown, in 4 of 4'),
        (filtered, '1 shown, in 1 of 4')):
        document, console = opened(path, folder / 'browser')
        assert f'{said} pictures' in document
        assert console == []


def test_scores_that_are_no_numbers(tmp_path):
    data = write(tmp_path, dict(train=planted(20, 0), test=planted(20, 1)))
    subject = LabelledPictures(SuperclassCIFAR100(str(data), 'test'))
    sample = DataSample(metainfo=dict(sample_idx=3)).set_gt_label(
        3).set_pred_label(3).set_pred_score(torch.full((20, ), torch.nan))
    with pytest.raises(DataError, match='picture 3 gets scores that are not'):
        subject.predicted(sample)


def test_grey_pictures_are_shown_as_they_are(tmp_path):
    data = write(tmp_path, dict(train=planted(20, 0), test=planted(20, 1)))
    subject = LabelledPictures(SuperclassCIFAR100(str(data), 'test'))
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    subject.dataset = SimpleNamespace(
        get_data_info=lambda index: dict(img=grey))
    shown = subject.image(0, '')
    assert shown.shape == (3, 4, 3) and (shown == grey[..., None]).all()


def test_accuracy_by_hand():
    """Ranks of the right class of four pictures, in another order."""
    groups = {'superclass': ('xy', np.array([1, 0, 1, 0, 0, 0])),
              'class': ('abcdef', np.arange(6))}
    metric = Accuracy(groups, dict(
        picture=np.array([2, 0, 1, 3]), label=np.array([1, 0, 0, 1]),
        rank=np.array([5, 0, 1, 0])))
    values = metric.values(np.array([[1, 1, 1, 1], [2, 0, 0, 2], [0, 4, 0, 0]]))
    assert values.overall['accuracy'].tolist() == [0.5, 1, 0]
    assert values.overall['top-5'].tolist() == [0.75, 1, 1]
    by_class, by_superclass = (
        values.by_group[by] for by in ('class', 'superclass'))
    assert by_class[0].tolist() == [0.5, 1, 0]
    assert by_class[1, :2].tolist() == [0.5, 1]
    assert np.isnan(by_class[1:, 2]).all()
    assert by_superclass[1].tolist() == by_class[0].tolist()
    assert by_superclass[0, :2].tolist() == by_class[1, :2].tolist()
    assert metric.words.by == 'superclass'
