"""Checkpoints that run code when they are read, and names that are scripts."""
import os
import pickle
import zipfile
from collections import Counter

import numpy as np
import pytest
import torch
from command import MOE, on, tool
from mmengine.logging import HistoryBuffer

from mmdet_moe.files import DataError
from mmdet_moe.trust import _refusal, check_checkpoint


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.makedirs, (self.folder, 0o777, True)


def plain(content, path):
    path.write_bytes(pickle.dumps(content))


def legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize('save', [plain, legacy, torch.save])
def test_no_tool_runs_what_is_in_a_checkpoint(shapes, tmp_path, save):
    ran, checkpoint = tmp_path / 'ran', tmp_path / 'malicious.pth'
    save(dict(state_dict=dict(weight=torch.ones(3)), meta=Code(ran)),
         checkpoint)
    resumed = tmp_path / 'resumed'
    resumed.mkdir()
    (resumed / 'last_checkpoint').write_text(str(checkpoint))
    work_dir = ['--work-dir', tmp_path / 'work']
    for args in (
        ['tools/test.py', MOE, checkpoint, *work_dir],
        ['tools/analysis_tools/expert_report.py', MOE, checkpoint, *work_dir],
        ['tools/train.py', MOE, *work_dir, '--resume', checkpoint],
        ['tools/train.py', MOE, '--work-dir', resumed, '--resume'],
        ['tools/model_converters/prune_experts.py', MOE, checkpoint,
         tmp_path / 'out.pth', '--drop', 'bbox_head.cls_subnet:0'],
        ['tools/model_converters/upcycle.py', MOE, checkpoint,
         tmp_path / 'out.pth']):
        output = tool(*args, *on(shapes), ok=False)
        assert 'malicious.pth' in output.splitlines()[-1], output
        assert not ran.exists(), args
    assert not (tmp_path / 'out.pth').exists()


class Reach:
    """A way to everything, by what MMEngine allows."""

    def __init__(self, *names):
        self.names = names

    def __reduce__(self):
        *owner, name = self.names
        return getattr, (Reach(*owner) if len(owner) > 1 else owner[0], name)


@pytest.mark.parametrize('names', [
    (HistoryBuffer, '__init__', '__globals__'), (torch.Tensor, '__module__'),
    (HistoryBuffer, '__dict__')])
def test_getattr_reaches_the_log_only(tmp_path, names):
    bad, good = tmp_path / 'bad.pth', tmp_path / 'good.pth'
    torch.save(dict(state_dict={}, meta=Reach(*names)), bad)
    with pytest.raises(DataError, match='bad.pth holds more than tensors'):
        check_checkpoint(str(bad))
    history = HistoryBuffer()
    history.update(2.0)
    torch.save(dict(state_dict={}, message_hub=history), good)
    check_checkpoint(str(good))


def test_unless_the_user_says_so(trained, shapes, tmp_path):
    ran, checkpoint = tmp_path / 'ran', tmp_path / 'own.pth'
    last = (trained[0] / 'last_checkpoint').read_text()
    weights = torch.load(last, weights_only=False)['state_dict']
    torch.save(dict(state_dict=weights, meta=Code(ran)), checkpoint)
    tool('tools/test.py', MOE, checkpoint, '--work-dir', tmp_path,
         '--run-code-in-checkpoints', *on(shapes))
    assert ran.exists()


class Mine:
    """Of a module that nobody else has."""


@pytest.mark.parametrize('core', ['numpy.core', 'numpy._core'])
def test_arrays_of_both_versions_of_numpy(tmp_path, core):
    """Each version writes its own name of its module."""
    path = tmp_path / 'arrays.pth'
    content = dict(
        state_dict={}, best=np.float32(0.5), found=np.bool_(True),
        codes=np.arange(3, dtype=np.uint8), scores=np.ones(2),
        milestones=Counter([8, 11]))  # of a MultiStepLR
    names = {b'numpy.core', b'numpy._core'}
    torch.save(content, path)
    with zipfile.ZipFile(path) as archive:
        parts = {i.filename: archive.read(i) for i in archive.infolist()}
    with zipfile.ZipFile(path, 'w') as archive:
        for name, part in parts.items():
            if name.endswith('data.pkl'):
                for other in sorted(names, key=len, reverse=True):
                    part = part.replace(
                        other + b'.multiarray', core.encode() + b'.multiarray')
            archive.writestr(name, part)
    check_checkpoint(str(path))


def test_the_reason_is_given(tmp_path):
    path = tmp_path / 'bad.pth'
    torch.save(dict(state_dict={}, meta=Mine()), path)
    with pytest.raises(DataError, match=r'Mine.*--run-code-in-checkpoints'):
        check_checkpoint(str(path))
    path.write_text('no checkpoint')
    with pytest.raises(DataError) as error:
        check_checkpoint(str(path))
    assert 'is not a checkpoint' in str(error.value)
    assert '--run-code' not in str(error.value)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(path))
    with pytest.raises(DataError, match='TorchScript .* and no checkpoint'):
        check_checkpoint(str(path))


@pytest.mark.parametrize('reason, name', [
    ("Can only build Tensor, Parameter, OrderedDict or types allowlisted via "
     "`add_safe_globals`, but got <class 'numpy.dtypes.StrDType'>",
     'numpy.dtypes.StrDType'),
    ('Trying to load unsupported GLOBAL os.system whose module os is blocked.',
     'os.system'),
    ('Unsupported global: GLOBAL a.b was not an allowed global', 'a.b'),
    ('Unsupported class a.b', 'a.b')])
def test_what_would_run_code_is_named(reason, name):
    assert f'({name}): to read that' in _refusal('x.pth', reason)


def test_a_flipped_bit_is_named(tmp_path):
    path = tmp_path / 'weights.pth'
    weights = dict(empty=torch.zeros(0), first=torch.zeros(99),
                   nothing=torch.zeros(0), second=torch.full((99, ), 7.0),
                   view=torch.zeros(3))
    weights['again'] = weights['second'][1:]
    torch.save(dict(state_dict=weights), path)
    check_checkpoint(str(path))
    raw = bytearray(path.read_bytes())
    place = raw.index(np.full(9, 7.0, np.float32).tobytes()) + 5
    raw[place] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match='damaged: state_dict.second is not'):
        check_checkpoint(str(path))
