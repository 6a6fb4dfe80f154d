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

from mmdet_moe.config_parts import apart, inner_datasets
from mmdet_moe.files import DataError

from .images import check_boxes, check_sizes
from .objects import describe_left_out, is_object


def dataset_class(cfg: dict) -> Optional[type]:
    """The class of the config of a dataset; None if it is not known."""
    kind = cfg.get('type')
    if not isinstance(kind, str):
        return kind
    # Of the scope that the config is built in, which may be another library's.
    with DATASETS.switch_scope_and_registry(None) as registry:
        return registry.get(kind) or DATASETS.get(kind)


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
            complete, a class is not in the file, or the file has them in
            another order, a picture is missing or has another size, boxes are
            in another format, or no picture is left to train on; or data sets
            that are joined for a test have pictures of the same id.
    """
    known: Dict[Any, str] = {}
    for inner, cfg in inner_datasets(key, dataset):
        ids = _check_one(inner, cfg)
        for i in ids if cfg.get('test_mode') else ():
            if known.setdefault(i, inner) != inner:
                raise DataError(
                    f'{known[i]} and {inner} both have a picture with the id '
                    f'{i}: an evaluator tells pictures by their ids, so those '
                    'of data that are joined must differ')


def _check_one(key: str, dataset: dict) -> Sequence:
    """The ids of its pictures, as far as they are known."""
    kind = dataset_class(dataset)
    # One with a loader of its own, such as LVISDataset, has files of its own.
    if kind is None or 'ann_file' not in dataset or (
            getattr(kind, 'load_data_list', None)
            is not CocoDataset.load_data_list):
        return ()
    root = dataset.get('data_root') or ''
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    if '://' in f'{root}{dataset["ann_file"]}' or backend not in LOCAL:
        return ()
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
        check_categories(ann_file, content, classes)
        _check_pictures(ann_file, content['images'], pictures)
        check_boxes(ann_file, content)
        check_sizes(ann_file, content['images'], pictures,
                    dataset.get('pipeline') or ())
        _warn_of_objects(ann_file, content, classes, dataset.get('test_mode'))
        if (dataset.get('filter_cfg') or {}).get('filter_empty_gt'):
            _check_objects(ann_file, content, classes)
    except DataError as error:
        raise DataError(f'{key}: {error}') from None
    return [image['id'] for image in content['images']]


def check_evaluator(key: str, metric: dict, dataset: dict) -> None:
    """Check that the annotation file of a metric is about the classes of the
    data that it evaluates.

    Args:
        key: Name of the config key that holds the metric, for the message.
        metric: Config of a metric. Those without a local ``ann_file`` in
            COCO's format are left alone.
        dataset: Config of the data set of its loader.

    Raises:
        DataError: The file is not there, or has the classes in another order.
    """
    ann_file = metric.get('ann_file')
    if not isinstance(ann_file, str) or '://' in ann_file:
        return
    if not os.path.exists(ann_file):
        raise DataError(f'{key}.ann_file: {ann_file} does not exist; it '
                        'should be the annotation file of its dataloader')
    inner = next(inner_datasets(key, dataset))[1]
    kind = dataset_class(inner)
    own = Path(inner.get('data_root') or '', inner.get('ann_file') or '')
    if kind is None or Path(ann_file) == own or (
            getattr(kind, 'load_data_list', None)
            is not CocoDataset.load_data_list):
        return
    try:
        content = json.loads(Path(ann_file).read_text(encoding='utf-8'))
        categories = content['categories']
    except (OSError, ValueError, TypeError, KeyError):
        return  # another format; the metric says so itself
    try:
        check_categories(
            Path(ann_file), dict(categories=categories, annotations=[]),
            kind._load_metainfo(inner.get('metainfo'))['classes'])
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


def _is_length(x: Any) -> bool:
    return _is_number(x) and x > 0


def _is_box(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 4 and all(map(_is_number, x))


def _is_name(x: Any) -> bool:
    return isinstance(x, str) and x != ''


#: What is needed of a COCO file, and how to tell that it is there.
_FIELDS: Dict[str, Dict[str, Callable[[Any], bool]]] = {
    'images':
    dict(id=_is_id, file_name=_is_name, height=_is_length, width=_is_length),
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


def check_categories(ann_file: Path, content: dict,
                     classes: Sequence[str]) -> None:
    """Check that a COCO file has the classes, in the same order.

    CocoDataset and COCO's evaluation number the labels in the order of the
    file, heads are drawn and reported in that of ``metainfo``.

    Raises:
        DataError: A class is missing or there twice, or the orders differ.
    """
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
    order = [name for name in names if name in classes]
    twice = [name for name, n in Counter(order).items() if n > 1]
    if twice:
        raise DataError(f'{ann_file} has several categories of the name '
                        f'{twice[0]!r}: their labels could not be told apart')
    if order != list(classes):
        theirs, ours = apart(order, classes)
        raise DataError(
            f'{ann_file} has its categories in another order than '
            f'metainfo.classes, and labels are numbered by the file: {theirs} '
            f'there, and {ours} in the config. Give metainfo.classes in the '
            'order of the file, and all files in the same order')


def _warn_of_objects(ann_file: Path, content: dict, classes: Sequence[str],
                     tested: bool) -> None:
    categories = {c['id'] for c in content['categories']
                  if c['name'] in classes}
    said = describe_left_out(content, categories)
    if said:
        warnings.warn(f'{ann_file}: {said}')
    if tested and any(a['id'] == 0 for a in content['annotations']):
        warnings.warn(f'{ann_file} has an annotation with the id 0, which '
                      'COCOeval counts as missed, found or not: number '
                      'annotations from 1')


def _check_objects(ann_file: Path, content: dict,
                   classes: Sequence[str]) -> None:
    wanted = {c['id'] for c in content['categories'] if c['name'] in classes}
    images = {image['id']: image for image in content['images']}
    if not any(a['category_id'] in wanted and is_object(
            a, images[a['image_id']]) for a in content['annotations']):
        raise DataError(
            f'{ann_file} has no object of the classes ' +
            ', '.join(list(classes)[:10]) + ', of a pixel or more, in its '
            'image and no crowd: there is nothing to train on. ' +
            describe_left_out(content, wanted))


def _check_pictures(ann_file: Path, images: Sequence[dict],
                    folder: Path) -> None:
    sizes = {}
    for sub in {Path(i['file_name']).parent for i in images}:
        if (folder / sub).is_dir():
            with os.scandir(folder / sub) as entries:
                sizes.update({sub / e.name: e.stat().st_size for e in entries
                              if os.path.exists(e.path)})  # or a broken link
    for wrong, what in ((lambda p: p not in sizes, 'missing'),
                        (lambda p: sizes[p] == 0, 'empty files')):
        bad = [i['file_name'] for i in images if wrong(Path(i['file_name']))]
        if bad:
            raise DataError(
                f'{len(bad)} of the {len(images)} pictures of {ann_file} are '
                f'{what} in {folder}{os.sep}: ' + ', '.join(bad[:3]) +
                (', ...' if len(bad) > 3 else ''))
