"""Data and configs for the tests: generated, or skipped with a reason."""
from functools import cache
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
REAL_DATA = ROOT.parent / 'shared' / 'data'


@pytest.fixture(scope='session', autouse=True)
def _metafiles_are_read_once():
    """MMEngine reads MMDetection's hundred for each config that has a base
    there, which takes nearly a second."""
    try:
        from mmengine.config import utils
    except ImportError:
        return
    utils.load = cache(utils.load)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _scope(request):
    """A test finds MMDetection's scope, whatever a runner before it left:
    MMEngine's own default, "mmengine", knows no detector."""
    try:
        from mmengine.registry import DefaultScope
    except ImportError:
        return
    DefaultScope.get_instance(request.node.nodeid, scope_name='mmdet')


@pytest.fixture(scope='session')
def shapes(tmp_path_factory) -> Path:
    """16 training and 8 validation pictures of generated shapes."""
    from mmdet_moe.datasets.shapes import generate
    return generate(tmp_path_factory.mktemp('data') / 'shapes', 16, 8)


@pytest.fixture
def coco_tiny() -> Path:
    """80 + 80 real pictures of COCO 2017, where they are at hand."""
    folder = REAL_DATA / 'coco_tiny'
    if not folder.exists():
        pytest.skip('no real COCO pictures beside this checkout')
    return folder


@pytest.fixture(scope='session')
def load_config():
    """A config of this repository by name, with ``mmdet`` as the scope."""
    from mmengine.config import Config
    from mmengine.registry import init_default_scope

    def load(name: str) -> Config:
        init_default_scope('mmdet')
        return Config.fromfile(ROOT / 'configs' / f'{name}.py')

    return load


def pytest_terminal_summary(terminalreporter):
    """Print the tables that tests recorded."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, 'user_properties', ()):
                if name == 'table' and report.when == 'call':
                    terminalreporter.section(report.nodeid)
                    terminalreporter.write_line(value)
