"""Checks of COCO-format data before anything is built on it."""
import json
import os
from pathlib import Path
from typing import Sequence

import numpy as np


class DataError(Exception):
    """The data is not there, or not what it should be; says which file."""


def check_coco_dataset(key: str, dataset: dict) -> None:
    """Check the files that the config of a CocoDataset names.

    Args:
        key: Name of the config key that holds it, for the message.
        dataset: Config with ``data_root``, ``ann_file``, ``data_prefix`` and
            ``metainfo``. Wrappers (``dataset=dict(...)`` inside) are opened;
            other datasets, and remote files, are left alone.

    Raises:
        DataError: A file is missing, broken or empty, an annotation is not
            complete, a class is not in the file, a picture is missing.
    """
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if dataset.get('type') != 'CocoDataset' or 'ann_file' not in dataset:
        return
    root = dataset.get('data_root') or ''
    ann_file = Path(root, dataset['ann_file'])
    pictures = Path(root, dataset.get('data_prefix', {}).get('img', ''))
    if '://' in f'{root}{dataset["ann_file"]}':
        return
    content = read_annotations(key, ann_file, pictures)
    _check_classes(key, ann_file, content,
                   dataset.get('metainfo', {}).get('classes', ()))
    _check_pictures(key, ann_file, content['images'], pictures)


def read_annotations(key: str, ann_file: Path, pictures: Path) -> dict:
    """The content of an annotation file, complete and consistent."""
    for path, kind in ((ann_file, 'a COCO-format annotation file'),
                       (pictures, 'the folder with its pictures')):
        if not path.exists():
            raise DataError(
                f'{key}: {path} does not exist; it should be {kind}. '
                f'Expected are {ann_file} and {pictures}{os.sep}: put the '
                'data there, or give another data_root in the config or with '
                '--cfg-options.')
    try:
        content = json.loads(ann_file.read_text(encoding='utf-8'))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(
            f'{key}: {ann_file} is not valid JSON ({error}); is the file '
            'complete?') from None
    sections = {
        'images': ('id', 'file_name', 'height', 'width'),
        'annotations': ('id', 'image_id', 'category_id', 'bbox', 'area'),
        'categories': ('id', 'name')
    }
    for section, fields in sections.items():
        if not isinstance(content, dict) or not isinstance(
                content.get(section), list):
            raise DataError(f'{key}: {ann_file} has no list {section!r}; a '
                            'COCO file has ' + ', '.join(sections))
        for i, entry in enumerate(content[section]):
            missing = [f for f in fields if f not in entry]
            if missing:
                raise DataError(f'{key}: {section}[{i}] in {ann_file} has no '
                                f'{missing[0]!r}')
    if not content['images']:
        raise DataError(f'{key}: {ann_file} has no pictures in it')
    known = {
        'image_id': {i['id'] for i in content['images']},
        'category_id': {c['id'] for c in content['categories']}
    }
    for annotation in content['annotations']:
        for field, ids in known.items():
            if annotation[field] not in ids:
                raise DataError(
                    f'{key}: annotation {annotation["id"]} in {ann_file} has '
                    f'{field} {annotation[field]}, which the file does not '
                    'define')
        if np.shape(annotation['bbox']) != (4, ):
            raise DataError(f'{key}: annotation {annotation["id"]} in '
                            f'{ann_file} has bbox {annotation["bbox"]}, not '
                            '[x, y, width, height]')
    return content


def _check_classes(key: str, ann_file: Path, content: dict,
                   classes: Sequence[str]) -> None:
    names = [c['name'] for c in content['categories']]
    for name in classes:
        if name not in names:
            raise DataError(
                f'{key}: the class {name!r} of metainfo is not a category of '
                f'{ann_file}, which has ' + ', '.join(names[:10]) +
                (', ...' if len(names) > 10 else ''))


def _check_pictures(key: str, ann_file: Path, images: Sequence[dict],
                    folder: Path) -> None:
    # One listing per folder: asking for each of 118,000 files takes longer.
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
                f'{key}: {len(bad)} of the {len(images)} pictures of '
                f'{ann_file} are {what} in {folder}{os.sep}: ' +
                ', '.join(bad[:3]) + (', ...' if len(bad) > 3 else ''))
