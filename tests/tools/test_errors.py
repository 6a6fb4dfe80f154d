"""Errors end with one line that begins with ``error:``."""
import errno
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmdet_moe.analysis.comparison import compare, read_run
from mmdet_moe.analysis.parts import Parts
from mmdet_moe.analysis.report import FORMAT
from mmdet_moe.files import check_writable
from mmdet_moe.launch import clear_errors, read_config
from mmdet_moe.layers.checks import check_keywords
from mmdet_moe.sweep import runs_of


def config(text):
    def read(folder):
        path = folder / 'config.py'
        path.write_text(text)
        read_config(str(path))
    return read


def grid(text):
    def read(folder):
        (folder / 'base.py').write_text('model = dict()')
        path = folder / 'grid.py'
        path.write_text(text)
        runs_of(str(path))
    return read


def parts(damage):
    def read(folder):
        def made(**options):
            return Parts(folder / 'parts', dict(about=1), **options)
        first = made()
        first.add(dict(a=np.arange(999)))
        first.write()
        damage(folder / 'parts')
        made(resume=True).read()['a']
    return read


def cut(folder):
    path, = folder.glob('*.npz')
    path.write_bytes(path.read_bytes()[:-60])


def flip(folder):
    path, = folder.glob('*.npz')
    raw = bytearray(path.read_bytes())
    raw[raw.index(np.arange(500, 600).tobytes()) + 3] ^= 1
    path.write_bytes(raw)


def report(**content):
    def read(folder):
        path = folder / 'report.json'
        path.write_text(json.dumps(dict(content, format=FORMAT)))
        read_run(str(path))
    return read


def compared(**content):
    """A report of one layer, without what is in a layer."""
    def read(folder):
        path = folder / 'report.json'
        path.write_text(json.dumps(dict(
            dict(format=FORMAT, name='mine', words={}, metrics={},
                 interventions=[], layers=dict(moe={})), **content)))
        compare([read_run(str(path))], folder / 'page.html')
    return read


def no_space(folder):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), 'epoch_1.pth')


@pytest.fixture(autouse=True)
def _loading_stays(monkeypatch):
    """What a tool forbids in its process is not forbidden in this one."""
    monkeypatch.setattr('mmdet_moe.launch.load_weights_only', lambda: None)


@pytest.mark.parametrize('action, said', [
    (config('model = dict('), r'config.py cannot be read: SyntaxError'),
    (config("custom_imports = dict(imports=['no_such'], "
            'allow_failed_imports=False)'), 'ImportError.*no_such'),
    (config('a = b'), r'NameError.*b'),
    (config("_base_ = ['mmdet::gone.py']"), 'config.py cannot be read'),
    (grid('axes = 3'), r"grid.py is no grid; it needs 'base'"),
    (grid("base = 'base.py'; axes = dict(k=3)"), 'axes.k=3: allowed is a dict'),
    (grid("base = 'base.py'; axes = dict(k=dict(two=2))"), 'axes.k='),
    (parts(cut), r'npz is damaged .*leave out --resume'),
    (parts(flip), r'npz is damaged .*leave out --resume'),
    (parts(lambda x: (x / 'about.json').write_text('{')), 'about.json is dam'),
    (report(), "report.json has no 'name'"),
    (report(name='x', words={}, metrics={}), "has no 'layers'"),
    (compared(), 'report.json of mine is not complete: KeyError'),
    (compared(layers=[1]), 'report.json of mine is not complete'),
    (compared(metrics=3), 'report.json of mine is not complete'),
    (no_space, 'No space left.*epoch_1.pth'),
    (lambda x: check_writable(x), 'Is a directory'),
    (lambda x: check_writable((x / 'file').write_text('') or
                              x / 'file' / 'out.pkl'), 'file'),
    (lambda x: check_keywords('gate', dict(a=1), lambda: None),
     'gate.a=1.*there are no keys'),
])
def test_the_last_line(action, said, tmp_path):
    with pytest.raises(SystemExit) as stopped, clear_errors():
        action(Path(tmp_path))
    text = str(stopped.value)
    assert text.startswith('error: ')
    assert re.search(said, text), text


def test_batchnorm_of_a_single_value_is_named():
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sequential(nn.BatchNorm2d(2)))
    with pytest.raises(SystemExit, match=r'error: 1\.0 \(BatchNorm2d\)'), (
            clear_errors()):
        model(torch.ones(1, 2, 1, 1))
