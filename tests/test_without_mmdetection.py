"""Without MMDetection: the layers work, and the rest says what to install."""
import subprocess
import sys

import pytest

HIDE = """
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('mmengine', 'mmcv', 'mmdet'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Hidden())
"""


def run(code: str) -> str:
    """What Python prints, and the last line of an error."""
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', HIDE + code],
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
