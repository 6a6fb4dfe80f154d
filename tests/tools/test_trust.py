"""Checkpoints that run code when they are read, and names that are scripts."""
import os
import pickle

import pytest
import torch
from command import MOE, on, tool
from mmengine.logging import HistoryBuffer

from mmdet_moe.files import DataError
from mmdet_moe.trust import check_checkpoint


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
    with pytest.raises(DataError, match='bad.pth is not a checkpoint'):
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
