"""CIFAR-100's files: the original layout, and nothing else."""
import pickle

import numpy as np
import pytest

from mmdet_moe.files import DataError

pytest.importorskip('mmpretrain')
from mmdet_moe.classification.cifar import read, write
from mmdet_moe.classification.planted import planted


@pytest.fixture
def root(tmp_path):
    return write(tmp_path, dict(train=planted(40, 0), test=planted(20, 1)))


def rewrite(root, name, **changes):
    path = root / 'cifar-100-python' / name
    content = dict(pickle.loads(path.read_bytes()), **changes)
    path.write_bytes(pickle.dumps(
        {key: x for key, x in content.items() if x is not None}, protocol=2))


def test_what_is_written_is_read(root):
    train, other = read(root, 'train'), planted(40, 0)
    for name, value in vars(other).items():
        assert np.array_equal(getattr(train, name), value), name
    assert np.array_equal(read(root / 'cifar-100-python', 'test').images,
                          planted(20, 1).images)


def test_files_as_python_2_wrote_them(root):
    """With bytes for keys and names."""
    path = root / 'cifar-100-python' / 'meta'
    path.write_bytes(pickle.dumps(
        {key.encode(): [name.encode() for name in names] for key, names in
         pickle.loads(path.read_bytes()).items()}, protocol=2))
    assert read(root, 'test').classes[0] == 'disc on meadow'


def test_domains_and_classes_are_balanced():
    pictures = planted(40, 0)
    assert np.bincount(pictures.labels).tolist() == [2] * 20
    assert np.bincount(pictures.superlabels).tolist() == [10] * 4
    # the ground tells the domain: its mean colour does
    means = pictures.images.mean(axis=(1, 2))
    centres = np.stack([means[pictures.superlabels == d].mean(axis=0)
                        for d in range(4)])
    nearest = ((means[:, None] - centres) ** 2).sum(axis=2).argmin(axis=1)
    assert (nearest == pictures.superlabels).mean() > 0.9


class Evil:

    def __reduce__(self):
        return eval, ("open('ran', 'w')", )


@pytest.mark.parametrize('name, changes, message', [
    ('train', dict(fine_labels=[0] * 39 + [20]),
     r'20 as fine_labels\[39\]; allowed are 0 to 19'),
    ('train', dict(coarse_labels=[0] * 39), '39 coarse_labels for 40'),
    ('train', dict(coarse_labels=['x'] * 40), "'x' as coarse_labels"),
    ('train', dict(data=np.zeros((40, 3), np.uint8)), r'shape \(40, 3\)'),
    ('train', dict(data=None), "no 'data'"),
    ('meta', dict(fine_label_names=['disc']), 'allowed are 0 to 0'),
    ('train', dict(batch_label=Evil()), 'would call .*eval')])
def test_what_does_not_fit(root, tmp_path, monkeypatch, name, changes,
                           message):
    monkeypatch.chdir(tmp_path)
    rewrite(root, name, **changes)
    with pytest.raises(DataError, match=message):
        read(root, 'train')
    assert not (tmp_path / 'ran').exists()


def test_files_that_are_missing_or_cut_off(root):
    path = root / 'cifar-100-python' / 'train'
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 4999):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match='train is not a file'):
            read(root, 'train')
    path.unlink()
    with pytest.raises(DataError, match='train does not exist.*original'):
        read(root, 'train')
