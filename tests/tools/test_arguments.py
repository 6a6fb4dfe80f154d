"""What a tool does before, and while, it imports what takes seconds."""
import re
import subprocess
import sys

import pytest
from command import ROOT

from mmdet_moe import trust
from mmdet_moe.analysis.embedding import METHODS
from mmdet_moe.analysis.interventions import KINDS
from mmdet_moe.analysis.tables import Options

TOOLS = sorted(str(path.relative_to(ROOT))
               for path in ROOT.glob('tools/**/*.py')
               if path.name != 'arguments.py')


@pytest.mark.parametrize('tool', TOOLS)
def test_help_imports_python_only(tool):
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', ROOT / tool, '--help'],
        capture_output=True, text=True, check=True)
    assert 'usage:' in done.stdout
    imported = re.findall(r'\| +(\w+)[.\w]*$', done.stderr, re.M)
    assert not {'torch', 'numpy', 'mmengine', 'mmdet_moe'} & set(imported)


def test_options_are_those_of_the_package(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools')
    import argparse

    import arguments
    assert trust.RUN_CODE == arguments.RUN_CODE
    assert arguments.INTERVENTIONS == tuple(KINDS)
    assert arguments.EMBEDDINGS == METHODS
    parser = argparse.ArgumentParser()
    arguments.add_arguments(parser)
    arguments.add_report_arguments(parser)
    args = parser.parse_args(['--cfg-options', 'a.b=1', 'c=[x,2]'])
    assert args.cfg_options == {'a.b': 1, 'c': ['x', 2]}
    assert Options() == Options(
        args.score_thr, args.resamples, args.permutations, args.seed)


@pytest.mark.parametrize('module', ['mmdet_moe', 'mmdet_moe.classification'])
def test_import_prints_nothing(module):
    """Neither of what MMDetection may also have, and none of it is used."""
    pytest.importorskip('mmpretrain')
    done = subprocess.run([sys.executable, '-c', f'import {module}'],
                          capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ''
