"""Whether an annotation file has the classes of its data set."""
import warnings
from collections import Counter
from pathlib import Path
from typing import Sequence

from mmdet_moe.config_parts import apart
from mmdet_moe.files import DataError


def check_categories(ann_file: Path, content: dict,
                     classes: Sequence[str]) -> None:
    """Check that a COCO file has the classes, in the same order.

    CocoDataset and COCO's evaluation number the labels in the order of the
    file, heads are drawn and reported in that of ``metainfo``. Categories that
    are no classes may be anywhere; a warning counts their objects.

    Raises:
        DataError: A class is missing or there twice, or the orders differ.
    """
    names = [c['name'] for c in content['categories']]
    wanted, there = set(classes), set(names)
    number = Counter(a['category_id'] for a in content['annotations'])
    left = [f'{c["name"]} ({number[c["id"]]} objects)'
            for c in content['categories'] if c['name'] not in wanted]
    if left:
        warnings.warn(
            f'{ann_file} has categories that are not among the classes of '
            f'metainfo, and are left out: {_first(left)}')
    for name in classes:
        if name not in there:
            raise DataError(f'the class {name!r} of metainfo is not a category '
                            f'of {ann_file}, which has {_first(names)}')
    order = [name for name in names if name in wanted]
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


def _first(names: Sequence[str]) -> str:
    return ', '.join(names[:10]) + (', ...' if len(names) > 10 else '')
