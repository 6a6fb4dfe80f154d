"""Whether a metric reads annotations of the images that it is given."""
import os
import warnings
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS

from mmdet_moe.config_parts import class_of, type_name
from mmdet_moe.files import DataError

from .categories import check_categories
from .checks import CocoFile, IdKinds, id_kinds, read_coco
from .images import check_boxes


def check_evaluator(key: str, metric: dict,
                    files: Sequence[CocoFile]) -> None:
    """Check that a metric has annotations of the data that it evaluates.

    Args:
        key: Name of the config key that holds the metric, for the message.
        metric: Its config.
        files: Of the data set of its loader, as checked. Where there are none,
            only the existence of the metric's ``ann_file`` is checked.

    Raises:
        DataError: The metric's ``ann_file`` is not there, or has the classes
            in another order, or boxes in another format, or lacks images, or
            has ids that COCOeval fails at; or data sets that are joined have
            images of the same id.
    """
    ann_file = metric.get('ann_file')
    local = isinstance(ann_file, str) and '://' not in ann_file
    if local and not os.path.exists(ann_file):
        raise DataError(f'{key}.ann_file: {ann_file} does not exist; it '
                        'should be the annotation file of its dataloader')
    if not files or not _reads_coco_files(metric):
        return
    try:
        evaluated = _joined(files)
        if not local:
            return
        path = Path(ann_file)
        if all(os.path.samefile(path, file.path) for file in files):
            id_zero, kinds = files[0].id_zero, files[0].id_kinds
        else:
            id_zero, kinds = _check_other_file(path, files, evaluated)
        _check_ids(path, kinds, metric.get('classwise', False))
    except DataError as error:
        raise DataError(f'{key}: {error}') from None
    if id_zero:
        warnings.warn(f'{ann_file} has an annotation with the id 0, which '
                      'COCOeval counts as missed, detected or not: number '
                      'annotations from 1')


def _reads_coco_files(metric: dict) -> bool:
    kind = class_of(METRICS, metric)
    return type_name(metric) == 'ExpertAssignmentMetric' or (
        isinstance(kind, type) and issubclass(kind, CocoMetric))


def _joined(files: Sequence[CocoFile]) -> Dict[Any, CocoFile]:
    """The file that each image is of."""
    of_image: Dict[Any, CocoFile] = {}
    for file in files:
        for i in file.images:
            other = of_image.setdefault(i, file)
            if other is not file:
                raise DataError(
                    f'{other.key} and {file.key} both have an image with the '
                    f'id {i} ({other.images[i]} in {other.path} and '
                    f'{file.images[i]} in {file.path}). A metric knows images '
                    'by their ids, so those of data that are joined must '
                    'differ; or use a MultiDatasetsEvaluator')
    return of_image


def _check_other_file(path: Path, files: Sequence[CocoFile],
                      evaluated: Dict[Any, CocoFile]
                      ) -> Tuple[bool, IdKinds]:
    """Check a file that is none of the loader's; whether it has an annotation
    with the id 0, and the types of its ids."""
    content = read_coco(path, loaded=False)
    check_categories(path, content, files[0].classes)
    check_boxes(path, content)
    known = {image['id']: image.get('file_name')
             for image in content['images']}
    missing = [i for i in evaluated if i not in known]
    if missing and not any(file.partial for file in files):
        file = evaluated[missing[0]]
        raise DataError(
            f'{len(missing)} of {len(evaluated)} images of the dataloader are '
            f'not in {path}, such as {file.images[missing[0]]!r} with the id '
            f'{missing[0]!r} in {file.path}')
    other = [i for i, file in evaluated.items() if known.get(i)
             and Path(known[i]).stem != Path(file.images[i]).stem]
    if other:
        i = other[0]
        warnings.warn(
            f'{len(other)} of {len(evaluated)} images have other names in '
            f'{path} than in {evaluated[i].path}, such as {known[i]} and '
            f'{evaluated[i].images[i]} for the id {i!r}: are they the same?')
    more = len(known.keys() - evaluated.keys())
    if more:
        warnings.warn(f'{path} has {more} images that the dataloader does not '
                      'load: AP counts their objects as missed')
    return (any(a['id'] == 0 for a in content['annotations']),
            id_kinds(content))


def _check_ids(path: Path, kinds: IdKinds, classwise: bool) -> None:
    """Refuse ids that COCO's evaluation fails at, after all images."""
    text, images = 'str', kinds['images']
    if text in kinds['annotations']:
        raise DataError(
            f'{path} has an annotation with the id '
            f'{kinds["annotations"][text]!r}: COCOeval needs numbers, from 1')
    if len(images) > 1:
        raise DataError(
            f'{path} has images with ids of several types, such as ' +
            ' and '.join(map(repr, images.values())) +
            ': COCOeval cannot sort them')
    if classwise and text in kinds['categories']:
        raise DataError(
            f'{path} has a category with the id '
            f'{kinds["categories"][text]!r}: classwise=True needs numbers')
