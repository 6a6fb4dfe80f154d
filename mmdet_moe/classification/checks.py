"""What can be wrong with the config of a classifier, before it is built."""
from typing import Iterator, Optional, Sequence, Tuple

from mmengine.config import Config
from mmpretrain.registry import DATASETS

from mmdet_moe.config_parts import inner_datasets, type_name
from mmdet_moe.layers.checks import fail

#: Parts of a model that have an output for each class.
PARTS = ('head', 'data_preprocessor')


def check_config(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse a model that has another number of classes than its data, and
    data sets whose classes differ.

    Args:
        cfg: Of a training or a test.
        loaders: The data loaders that will be used, out of ``train``, ``val``,
            ``test``.

    Raises:
        DataError: The classes of a data set cannot be read.
        ConfigError: See above.
    """
    first, known = '', None
    for name in loaders:
        loader = cfg.get(f'{name}_dataloader')
        if loader is None:
            continue
        for key, dataset in inner_datasets(f'{name}_dataloader.dataset',
                                           loader.dataset):
            classes = classes_of(dataset)
            if classes is None:
                continue
            if known is None:
                first, known = key, classes
            elif classes != known:
                fail(f'{key}: classes', ', '.join(classes[:10]),
                     f'those of {first}, in the same order: '
                     + ', '.join(known[:10]))
    for key, number in _num_classes(cfg.model) if known is not None else ():
        if number != len(known):
            fail(key, number, f'{len(known)}, the number of the classes of '
                 f'{first}: {", ".join(known[:10])}'
                 + (', ...' if len(known) > 10 else ''))


def classes_of(dataset: dict) -> Optional[Tuple[str, ...]]:
    """The classes of the config of a data set; None if it does not say."""
    kind = dataset.get('type')
    if not isinstance(kind, type):
        kind = DATASETS.get(type_name(dataset))
    if kind is None:
        return None
    if hasattr(kind, 'classes_in'):  # in its files
        if not dataset.get('data_root'):
            fail(f'{kind.__name__}.data_root', dataset.get('data_root'),
                 'the folder with the data')
        return tuple(kind.classes_in(dataset['data_root']))
    for given in (dataset, dataset.get('metainfo') or {},
                  getattr(kind, 'METAINFO', None) or {}):
        if given.get('classes') is not None:
            classes = given['classes']
            # A text is the name of a file with them.
            return tuple(classes) if isinstance(
                classes, (list, tuple)) else None
    return None


def _num_classes(model: dict) -> Iterator[Tuple[str, int]]:
    for part in PARTS:
        number = (model.get(part) or {}).get('num_classes')
        if isinstance(number, int):
            yield f'model.{part}.num_classes', number
