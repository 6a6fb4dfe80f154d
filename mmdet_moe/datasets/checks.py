"""Checks of COCO-format data before anything is built on it."""
import json
import math
import os
import warnings
from collections import Counter
from numbers import Real
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from mmdet_moe.config_parts import inner_datasets, type_name
from mmdet_moe.files import DataError


def dataset_class(cfg: dict) -> Optional[type]:
    """The class of the config of a dataset; None if it is not known."""
    kind = cfg.get('type')
    return kind if isinstance(kind, type) else DATASETS.get(type_name(cfg))


def check_coco_dataset(key: str, dataset: dict) -> None:
    """Check the files that the config of a CocoDataset, or of a class that
    loads its files, names.

    Args:
        key: Name of the config key that holds it, for the message.
        dataset: Config with ``data_root``, ``ann_file``, ``data_prefix`` and
            ``metainfo``. Wrappers are opened; other datasets, and remote
            files, are left alone. In ``test_mode`` pictures need not be
            annotated.

    Raises:
        DataError: A file is missing, broken or empty, an annotation is not
            complete, a class is not in the file, a picture is missing, or no
            picture is left to train on.
    """
    for inner, cfg in inner_datasets(key, dataset):
        _check_one(inner, cfg)


def _check_one(key: str, dataset: dict) -> None:
    kind = dataset_class(dataset)
    # One with a loader of its own, such as LVISDataset, has files of its own.
    if kind is None or 'ann_file' not in dataset or (
            getattr(kind, 'load_data_list', None)
            is not CocoDataset.load_data_list):
        return
    root = dataset.get('data_root') or ''
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    if '://' in f'{root}{dataset["ann_file"]}' or backend not in LOCAL:
        return
    ann_file = Path(root, dataset['ann_file'])
    prefix = dataset.get('data_prefix') or {}
    pictures = Path(root, prefix.get('img') or '')
    # As the dataset does it: COCO's classes if none are given.
    classes = kind._load_metainfo(dataset.get('metainfo'))['classes']
    try:
        content = _read(ann_file, pictures)
        if dataset.get('test_mode') and isinstance(content, dict):
            # As COCO's own test sets, whose objects are not published.
            content.setdefault('annotations', [])
        _check_entries(ann_file, content)
        _check_classes(ann_file, content, classes)
        _check_pictures(ann_file, content['images'], pictures)
        if (dataset.get('filter_cfg') or {}).get('filter_empty_gt'):
            _check_objects(ann_file, content, classes)
    except DataError as error:
        raise DataError(f'{key}: {error}') from None


#: Names of MMEngine's backend for files of this machine.
LOCAL = ('local', 'LocalBackend', 'disk', 'HardDiskBackend')


def _read(ann_file: Path, pictures: Path) -> Any:
    for path, kind, there in (
        (ann_file, 'a COCO-format annotation file', ann_file.is_file()),
        (pictures, 'the folder with its pictures', pictures.is_dir())):
        if not there:
            raise DataError(
                f'{path} does not exist; it should be {kind}. '
                f'Expected are {ann_file} and {pictures}{os.sep}: put the '
                'data there, or give another data_root in the config or with '
                '--cfg-options.')
    try:
        return json.loads(ann_file.read_text(encoding='utf-8'))
    except OSError as error:
        raise DataError(f'{ann_file} cannot be read: {error}') from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise DataError(f'{ann_file} is not valid JSON ({error}); is the file '
                        'complete?') from None


def _is_id(x: Any) -> bool:
    return isinstance(x, (int, str))


def _is_number(x: Any) -> bool:
    return isinstance(x, Real) and math.isfinite(x)


def _is_box(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 4 and all(map(_is_number, x))


def _is_name(x: Any) -> bool:
    return isinstance(x, str) and x != ''


#: What is needed of a COCO file, and how to tell that it is there.
_FIELDS: Dict[str, Dict[str, Callable[[Any], bool]]] = {
    'images':
    dict(id=_is_id, file_name=_is_name, height=_is_number, width=_is_number),
    'annotations':
    dict(
        id=_is_id,
        image_id=_is_id,
        category_id=_is_id,
        bbox=_is_box,
        area=_is_number),
    'categories':
    dict(id=_is_id, name=_is_name)
}


def _check_entries(ann_file: Path, content: Any) -> None:
    """All lists and fields are there, ids are unique and refer to something."""
    ids = {}
    for section, fields in _FIELDS.items():
        entries = content.get(section) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f'{ann_file} has no list {section!r}; a COCO file '
                            'has ' + ', '.join(_FIELDS))
        for i, entry in enumerate(entries):
            for field, sound in fields.items():
                value = entry.get(field) if isinstance(entry, dict) else entry
                if not isinstance(entry, dict) or not sound(value):
                    raise DataError(f'{section}[{i}] in {ann_file} has no '
                                    f'sound {field!r}: {repr(value)[:80]}')
        counts = Counter(entry['id'] for entry in entries)
        twice = [i for i, number in counts.items() if number > 1]
        if twice:
            raise DataError(
                f'{ann_file} has the id {twice[0]} in {section!r} twice')
        ids[section] = counts
    if not content['images']:
        raise DataError(f'{ann_file} has no pictures in it')
    for annotation in content['annotations']:
        for field, section in (('image_id', 'images'), ('category_id',
                                                        'categories')):
            if annotation[field] not in ids[section]:
                raise DataError(
                    f'annotation {annotation["id"]} in {ann_file} has '
                    f'{field} {annotation[field]}, which the file does not '
                    'define')


def _check_classes(ann_file: Path, content: dict,
                   classes: Sequence[str]) -> None:
    names = [c['name'] for c in content['categories']]
    number = Counter(a['category_id'] for a in content['annotations'])
    left = [f'{c["name"]} ({number[c["id"]]} objects)'
            for c in content['categories'] if c['name'] not in classes]
    if left:
        warnings.warn(f'{ann_file} has categories that are not among the '
                      'classes of metainfo, and are left out: ' +
                      ', '.join(left[:10]) + (', ...' if len(left) > 10 else
                                              ''))
    for name in classes:
        if name not in names:
            raise DataError(
                f'the class {name!r} of metainfo is not a category of '
                f'{ann_file}, which has ' + ', '.join(names[:10]) +
                (', ...' if len(names) > 10 else ''))


def _check_objects(ann_file: Path, content: dict,
                   classes: Sequence[str]) -> None:
    wanted = {c['id'] for c in content['categories'] if c['name'] in classes}
    # What CocoDataset takes for an object.
    if not any(a['category_id'] in wanted and not a.get('iscrowd')
               and not a.get('ignore') and a['area'] > 0
               and min(a['bbox'][2:]) >= 1 for a in content['annotations']):
        raise DataError(f'{ann_file} has no object of the classes ' +
                        ', '.join(list(classes)[:10]) +
                        ', of a pixel or more and no crowd: there is nothing '
                        'to train on')


def _check_pictures(ann_file: Path, images: Sequence[dict],
                    folder: Path) -> None:
    sizes = {}
    for sub in {Path(i['file_name']).parent for i in images}:
        if (folder / sub).is_dir():
            with os.scandir(folder / sub) as entries:
                sizes.update({sub / e.name: e.stat().st_size for e in entries})
    for wrong, what in ((lambda p: p not in sizes, 'missing'),
                        (lambda p: sizes[p] == 0, 'empty files')):
        bad = [i['file_name'] for i in images if wrong(Path(i['file_name']))]
        if bad:
            raise DataError(
                f'{len(bad)} of the {len(images)} pictures of {ann_file} are '
                f'{what} in {folder}{os.sep}: ' + ', '.join(bad[:3]) +
                (', ...' if len(bad) > 3 else ''))
