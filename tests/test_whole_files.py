"""Files that are there as a whole, and old ones that go in time."""
import os

import pytest

from mmdet_moe import whole_files
from mmdet_moe.whole_files import WholeFiles


def test_an_old_file_goes_after_the_new_one_of_its_folder(tmp_path):
    files, other = WholeFiles(), tmp_path / 'another run'
    files.put(b'1', tmp_path / '1')
    files.put(b'1', other / '1')
    files.remove(tmp_path / '1')
    files.put(b'2', other / '2')
    assert (tmp_path / '1').exists() and (other / '1').exists()
    files.put(b'2', tmp_path / '2')
    assert set(os.listdir(tmp_path)) == {'2', 'another run'}


@pytest.mark.parametrize('late', [False, True])
def test_what_a_killed_run_has_left(tmp_path, monkeypatch, late):
    """Killed before, or after, the new file took its name."""
    files = WholeFiles()
    files.put(b'1', tmp_path / '1')
    files.remove(tmp_path / '1')

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    if late:
        monkeypatch.setattr(whole_files, '_finish', lambda folder: (
            kill() if (folder / '2').exists() else None))
    else:
        monkeypatch.setattr('mmdet_moe.files.os.replace', kill)
    with pytest.raises(Killed):
        files.put(b'2', tmp_path / '2')
    monkeypatch.undo()
    files._outdated.clear()  # it was in the memory of the killed one
    there = {p.name for p in tmp_path.iterdir() if p.name[0] != '.'}
    assert there == ({'1', '2'} if late else {'1'})
    files.put(b'3', tmp_path / '3')
    assert set(os.listdir(tmp_path)) == ({'2', '3'} if late else {'1', '3'})
