"""Without MMDetection, or all of OpenMMLab: what can be used without works,
and the rest says what to install."""
import subprocess
import sys
from pathlib import Path

import pytest

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {names}:
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)

sys.meta_path.insert(0, Hidden())
"""
CONFIG = Path(__file__).parents[1] / 'configs/cifar100/resnet18_moe_planted.py'


def run(code: str, hidden=('mmengine', 'mmcv', 'mmdet')) -> str:
    """What Python prints, and the last line of an error."""
    hide = HIDE.format(names=hidden)
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', hide + code],
                          capture_output=True, text=True)
    return done.stdout + done.stderr


def test_the_layers_are_there():
    out = run('import torch\n'
              'from mmdet_moe.layers import MoELayer\n'
              'layer = MoELayer(lambda: torch.nn.Conv2d(2, 3, 1), 2)\n'
              'print(tuple(layer(torch.ones(1, 2, 4, 4)).shape))')
    assert out == '(1, 3, 4, 4)\n'


def test_the_rest_says_what_to_install():
    """As a statement, by attribute, and for a module inside."""
    statements = [
        f'import mmdet_moe.{name}' for name in (
            'hooks', 'evaluation', 'models', 'visualization', 'analysis',
            'conversion', 'launch', 'models.backbones', 'hooks.freeze_hook')
    ]
    statements += ['from mmdet_moe import hooks', 'import mmdet_moe\n'
                   'mmdet_moe.hooks']
    for_each = '\n'.join(
        f'try:\n    exec({code!r})\nexcept ImportError as error:\n'
        f'    print({code!r}, str(error).splitlines()[0], "pip install '
        '--no-build-isolation onedl-mmcv" in str(error))'
        for code in statements)
    said = 'mmdet_moe needs MMDetection: mmengine cannot be imported. Install'
    assert run(for_each).splitlines() == [
        line for code in statements
        for line in f'{code} {said} it with True'.splitlines()
    ]


@pytest.mark.parametrize('code', ['import mmdet_moe.no_such_module',
                                  'import mmdet_moe; mmdet_moe.no_such_name'])
def test_other_names_are_not_there(code):
    error = run(code).splitlines()[-1]
    assert 'no_such' in error and 'MMDetection' not in error


def test_classifiers_without_mmdetection(tmp_path):
    pytest.importorskip('mmpretrain')
    out = run(f"""
from mmdet_moe.classification.cifar import write
from mmdet_moe.classification.planted import planted
from mmdet_moe.launch import build_runner, load_config
from mmdet_moe.analysis.report import write_report
from mmdet_moe.sweep import runs_of
write({str(tmp_path)!r}, dict(train=planted(64, 0), test=planted(32, 1)))
cfg = load_config({str(CONFIG)!r}, work_dir={str(tmp_path / 'run')!r})
cfg.train_cfg.max_epochs = 1
for part in ('train', 'val', 'test'):
    cfg[f'{{part}}_dataloader'].dataset.data_root = {str(tmp_path)!r}
build_runner(cfg, ('train', 'val')).train()
cfg.load_from = {str(tmp_path / 'run' / 'epoch_1.pth')!r}
print(write_report(build_runner(cfg, ('test', )), interventions=()))
try:
    import mmdet_moe.detection
except ImportError as error:
    print(str(error).splitlines()[0])
""", hidden=('mmdet', ''))
    assert f"\n{tmp_path / 'run' / 'report.html'}\nmmdet_moe needs " \
        'MMDetection: mmdet cannot be imported' in out, out[-2000:]


def test_detectors_without_mmpretrain():
    out = run("""
import mmdet_moe
import mmdet_moe.detection, mmdet_moe.analysis.report
try:
    import mmdet_moe.classification
except ImportError as error:
    print(error)
""", hidden=('mmpretrain', ''))
    assert 'mmpretrain cannot be imported' in out
    assert 'pip install onedl-mmpretrain' in out
