"""Checks of COCO-format data before anything is built on it."""
import json
import math
import os
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from mmdet_moe.config_parts import class_of, inner_datasets
from mmdet_moe.files import DataError

from .categories import check_categories
from .images import check_boxes, check_sizes, outside
from .objects import Objects, count_objects


def dataset_class(cfg: dict) -> Optional[type]:
    """The class of the config of a dataset; None if it is not known."""
    return class_of(DATASETS, cfg)


@dataclass(frozen=True)
class CocoFile:
    """An annotation file of a loader, once it has been checked.

    Attributes:
        key: Of the data set that reads it.
        path: Where it is.
        classes: Of the data set, in the order of the labels.
        images: The file of each image, by its id.
        objects: How many it has of the classes.
        partial: Whether the data set may have fewer images.
        id_zero: Whether an annotation has the id 0.
        id_kinds: Of the ids of each section; see :func:`id_kinds`.
    """
    key: str
    path: Path
    classes: Tuple[str, ...]
    images: Mapping[Any, str]
    objects: Objects
    partial: bool
    id_zero: bool
    id_kinds: 'IdKinds'


def check_coco_dataset(key: str, dataset: dict, *,
                       trains: bool = False) -> List[CocoFile]:
    """Check the files that the config of a CocoDataset, or of a class that
    loads its files, names.

    Args:
        key: Name of the config key that holds it, for the message.
        dataset: Config with ``data_root``, ``ann_file``, ``data_prefix`` and
            ``metainfo``. Wrappers are opened; other datasets, and remote
            files, are left alone. In ``test_mode`` images need not be
            annotated.
        trains: Whether it is trained on.

    Returns:
        The files that were checked.

    Raises:
        DataError: A file is missing, broken or empty, an annotation is not
            complete, a class is not in the file, or the file has them in
            another order, an image is missing or has another size, boxes are
            in another format, or there is nothing to train on.
    """
    parts = list(inner_datasets(key, dataset))
    files = [found for part in parts if (found := _check_one(*part))]
    # Data without objects may be joined with others, as SoftTeacher's are.
    if trains and len(files) == len(parts) and not any(
            file.objects.trained for file in files):
        raise DataError(
            f'{key}: {files[0].path} has no object to train on: of the classes '
            + ', '.join(files[0].classes[:10]) + ', of a pixel or more, in its '
            'image, no crowd, and in an image that filter_cfg keeps. ' +
            files[0].objects.left_out)
    return files


def reads_coco_files(kind: Optional[type]) -> bool:
    """Whether a class of data sets reads COCO's instances as CocoDataset does.
    LVISDataset has a loader of its own, panoptic data a format."""
    return getattr(kind, 'load_data_list', None) is (
        CocoDataset.load_data_list) and kind.COCOAPI is CocoDataset.COCOAPI


def _check_one(key: str, dataset: dict) -> Optional[CocoFile]:
    kind = dataset_class(dataset)
    if not reads_coco_files(kind) or 'ann_file' not in dataset:
        return None
    root = dataset.get('data_root') or ''
    backend = (dataset.get('backend_args') or {}).get('backend', 'local')
    if '://' in f'{root}{dataset["ann_file"]}' or backend not in LOCAL:
        return None
    ann_file = Path(root, dataset['ann_file'])
    prefix = dataset.get('data_prefix') or {}
    folder = Path(root, prefix.get('img') or '')
    # As the dataset does it: COCO's classes if none are given.
    classes = tuple(kind._load_metainfo(dataset.get('metainfo'))['classes'])
    tested = dataset.get('test_mode', False)
    kept = {} if tested else dataset.get('filter_cfg') or {}
    try:
        for path, what, there in (
            (ann_file, 'a COCO-format annotation file', ann_file.is_file()),
            (folder, 'the folder with its pictures', folder.is_dir())):
            if not there:
                raise DataError(
                    f'{path} does not exist; it should be {what}. '
                    f'Expected are {ann_file} and {folder}{os.sep}: put the '
                    'data there, or give another data_root in the config or '
                    'with --cfg-options.')
        content = read_coco(ann_file, annotated=not tested)
        check_categories(ann_file, content, classes)
        _check_files(ann_file, content['images'], folder)
        check_boxes(ann_file, content)
        check_sizes(ann_file, content['images'], folder,
                    dataset.get('pipeline') or ())
        counted = {c['id'] for c in content['categories']
                   if c['name'] in set(classes)}
        objects = count_objects(content, counted, kept.get('min_size', 0))
        if objects.left_out:
            warnings.warn(f'{ann_file}: {objects.left_out}')
        if kept.get('filter_empty_gt') and not objects.trained:
            raise DataError(
                f'{ann_file} has no object to train on, and filter_cfg leaves '
                'out the images without any: of the classes ' +
                ', '.join(classes[:10]) + ', of a pixel or more, in its image '
                f'and no crowd. {objects.left_out}')
    except DataError as error:
        raise DataError(f'{key}: {error}') from None
    return CocoFile(
        key, ann_file, classes,
        {i['id']: i['file_name'] for i in content['images']}, objects,
        not tested or 'indices' in dataset,
        any(a['id'] == 0 for a in content['annotations']), id_kinds(content))


#: Names of MMEngine's backend for files of this machine.
LOCAL = ('local', 'LocalBackend', 'disk', 'HardDiskBackend')


def read_coco(ann_file: Path, *, annotated: bool = True,
              loaded: bool = True) -> dict:
    """The content of an annotation file that has all that is needed.

    Args:
        ann_file: The file.
        annotated: Whether it must have ``annotations``; COCO's own test sets,
            whose objects are not published, have none.
        loaded: Whether its images are loaded: only then they must have names
            and sizes.

    Raises:
        DataError: It cannot be read, or lacks something.
    """
    try:
        content = json.loads(ann_file.read_text(encoding='utf-8'))
    except OSError as error:
        raise DataError(f'{ann_file} cannot be read: {error}') from None
    except ValueError as error:  # not UTF-8, or not JSON
        raise DataError(f'{ann_file} is not valid JSON ({error}); is the file '
                        'complete?') from None
    if not annotated and isinstance(content, dict):
        content.setdefault('annotations', [])
    fields = _FIELDS if loaded else dict(_FIELDS, images=dict(id=_is_id))
    _check_entries(ann_file, content, fields)
    return content


#: By section, and by the names of the types of its ids, the first such id.
IdKinds = Mapping[str, Mapping[str, Any]]


def id_kinds(content: dict) -> IdKinds:
    """The types of the ids in a COCO file."""
    return {
        section: {type(entry['id']).__name__: entry['id']
                  for entry in reversed(content[section])}
        for section in _FIELDS
    }


def _is_id(x: Any) -> bool:
    return isinstance(x, (int, str))


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and math.isfinite(x)


def _is_length(x: Any) -> bool:
    return _is_number(x) and x > 0


def _is_box(x: Any) -> bool:
    return isinstance(x, list) and len(x) == 4 and all(map(_is_number, x))


def _is_name(x: Any) -> bool:
    return isinstance(x, str) and x != ''


_Fields = Mapping[str, Callable[[Any], bool]]
#: What is needed of a COCO file, and how to tell that it is there.
_FIELDS: Dict[str, _Fields] = {
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


def _check_entries(ann_file: Path, content: Any,
                   fields_of: Mapping[str, _Fields]) -> None:
    """All lists and fields are there, ids are unique and refer to something."""
    ids = {}
    for section, fields in fields_of.items():
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
                    f'{field} {annotation[field]!r}, which the file does not '
                    'define')


def _check_files(ann_file: Path, images: Sequence[dict],
                 folder: Path) -> None:
    away = outside(folder, [i['file_name'] for i in images])
    if away:
        warnings.warn(
            f'{len(away)} of the {len(images)} images of {ann_file} are not in '
            f'{folder}{os.sep}, such as {away[0]}: a report would embed them')
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
