"""Data and models that do not fit, before anything is trained."""
import json
import struct
import sys
import zlib
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

from mmdet_moe.files import DataError

pytest.importorskip('mmpretrain')
from mmdet_moe.classification.checks import check_config
from mmdet_moe.classification.cifar import read, write
from mmdet_moe.classification.planted import planted

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / 'tools' / 'dataset_converters'))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write(tmp_path_factory.mktemp('cifar'),
                 dict(train=planted(40, 0), test=planted(20, 1)))


def config(data, **options):
    cfg = Config.fromfile(ROOT / 'configs/cifar100/resnet18_moe_planted.py')
    for part in ('train', 'val', 'test'):
        cfg[f'{part}_dataloader'].dataset.data_root = str(data)
    cfg.merge_from_dict(options)
    return cfg


def test_what_fits(data):
    check_config(config(data), ('train', 'val', 'test'))
    stock = config(data, **{
        'model.head.num_classes': 100, 'model.data_preprocessor': None})
    for part in ('train', 'val'):
        stock[f'{part}_dataloader'].dataset = dict(
            type='CIFAR100', data_root='/not/there', split='train')
    check_config(stock, ('train', 'val'))
    stock.model.head.num_classes = 2
    for part in ('train', 'val'):  # MMPretrain's own argument comes first
        stock[f'{part}_dataloader'].dataset = dict(
            type='ImageNet', data_root='/not/there', classes=['cat', 'dog'])
    check_config(stock, ('train', 'val'))


@pytest.mark.parametrize('options, message', [
    ({'model.head.num_classes': 100},
     r'model.head.num_classes=100: allowed is 20, the number of the classes of '
     'train_dataloader.dataset: disc on meadow'),
    ({'model.data_preprocessor.num_classes': 10},
     'preprocessor.num_classes=10'),
    ({'val_dataloader.dataset': dict(type='CIFAR10', data_root='/')},
     "val_dataloader.dataset: classes='airplane.*allowed is those of train_")])
def test_other_classes(data, options, message):
    with pytest.raises(ValueError, match=message):
        check_config(config(data, **options), ('train', 'val'))


@pytest.mark.parametrize('own, lost', [
    (dict(num_classes=20), 'mean'), (None, 'num_classes, mean'),
    (dict(num_classes=20, mean=[4, 5, 6]), 'mean')])
def test_a_preprocessor_beside_the_model(data, own, lost):
    """As the stock configs have it."""
    cfg = config(data, data_preprocessor=dict(num_classes=20, mean=[1, 2, 3]))
    cfg.model.data_preprocessor = own
    with pytest.warns(UserWarning, match=f'so that {lost} of this one are not'):
        check_config(cfg, ('train', ))
    cfg.model.pop('data_preprocessor')
    cfg.data_preprocessor.num_classes = 10
    with pytest.raises(ValueError, match='^data_preprocessor.num_classes=10'):
        check_config(cfg, ('train', ))


def test_files_that_are_missing(data, tmp_path):
    with pytest.raises(DataError, match="meta does not exist .*'meta' of C"):
        check_config(config(tmp_path), ('train', ))


def folders(root, names=('disc', 'ring')):
    for i, image in enumerate(planted(20, 0).images):
        folder = root / f'ground{i % 2}' / f'{names[i // 10]}{i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f'{i}.png'),
                    cv2.resize(image[..., ::-1], (64, 48)))
    return root


def test_folders_are_converted(tmp_path, monkeypatch, capsys):
    import folders2cifar100
    names = tmp_path / 'names.json'
    names.write_text(json.dumps(dict(
        disc0='a disc', disc1='disc1', ring0='ring0', ring1='ring1')))
    monkeypatch.setattr(sys, 'argv', [
        '', str(folders(tmp_path / 'a')), str(folders(tmp_path / 'b')),
        str(tmp_path / 'out'), '--names', str(names)])
    folders2cifar100.main()
    found = read(tmp_path / 'out', 'test')
    assert found.images.shape == (20, 32, 32, 3)
    assert found.classes == ['a disc', 'disc1', 'ring0', 'ring1']
    assert found.superclasses == ['ground0', 'ground1']
    assert (found.superlabels == found.labels % 2).all()
    for wrong, message in (
            ('{"disc0": "a"}', 'there is none for disc1, ring0, ring1'),
            ('{"superclasses": []}', 'is no list of names; expected is'),
            ('[', 'names.json is not valid JSON')):
        names.write_text(wrong)
        with pytest.raises(SystemExit, match=message):
            folders2cifar100.main()
    del sys.argv[4:]
    other = folders(tmp_path / 'c', names=('disc', 'cross'))
    sys.argv[2] = str(other)
    with pytest.raises(SystemExit, match='different classes: ground0/cross0'):
        folders2cifar100.main()
    renamed = folders(tmp_path / 'd')
    (renamed / 'ground1').rename(renamed / 'lawn')
    sys.argv[2] = str(renamed)
    with pytest.raises(SystemExit, match='ground1/disc1, .*, lawn/disc1'):
        folders2cifar100.main()
    sys.argv[2] = str(other)
    (other / 'ground0' / 'disc0' / 'x.png').write_bytes(b'no picture')
    sys.argv[1] = str(other)
    with pytest.raises(SystemExit, match='x.png cannot be read'):
        folders2cifar100.main()
    (other / 'ground0' / 'disc0' / 'x.png').write_bytes(png(60_000, 15_000))
    with pytest.raises(SystemExit, match='x.png is too large: .*900000000 pix'):
        folders2cifar100.main()


def png(width, height):
    """The beginning of a file that says that it has so many pixels."""
    def chunk(kind, data):
        code = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack(
            '>I', code)
    return b'\x89PNG\r\n\x1a\n' + chunk(
        b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    ) + chunk(b'IDAT', b'') + chunk(b'IEND', b'')
