import subprocess
import sys

import pytest

from mmdet_moe.files import (
    DataError,
    hold_folder,
    release_folder,
    replacing,
    write_text,
)

HOLDS = """
import sys, time
from mmdet_moe.files import hold_folder
hold_folder(sys.argv[1], 'training')
print('held', flush=True)
time.sleep(60)
"""


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = write_text(tmp_path / 'new' / 'a.txt', 'old')
    with pytest.raises(KeyError), replacing(path) as file:
        file.write('half of')
        raise KeyError
    assert path.read_text() == 'old'
    with replacing(path) as file:
        file.write('new')
        assert path.read_text() == 'old'
    assert path.read_text() == 'new'
    assert [p.name for p in path.parent.iterdir()] == ['a.txt']


def test_a_folder_is_held_until_its_owner_ends(tmp_path):
    owner = subprocess.Popen([sys.executable, '-c', HOLDS, tmp_path],
                             stdout=subprocess.PIPE, text=True)
    try:
        while owner.stdout.readline() not in ('held\n', ''):
            pass
        with pytest.raises(DataError, match=r'the same work \(training\)'):
            hold_folder(tmp_path, 'training')
        hold_folder(tmp_path, 'report')  # another work
    finally:
        owner.kill()  # it cannot tidy up
        owner.wait()
    held = hold_folder(tmp_path, 'training')
    assert hold_folder(tmp_path, 'training') is held  # again, the same process
    for work in ('training', 'report'):
        release_folder(tmp_path, work)
