import pytest

from mmdet_moe.files import replacing, write_text


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
