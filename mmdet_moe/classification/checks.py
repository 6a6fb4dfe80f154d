"""What can be wrong with the config of a classifier, before it is built."""
import warnings
from typing import Iterator, Optional, Sequence, Tuple

from mmengine.config import Config
from mmpretrain.registry import DATASETS

from mmdet_moe.config_parts import apart, inner_datasets, type_name
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
    _check_preprocessor(cfg)
    first, known = '', None
    for name in loaders:
        loader = cfg.get(f'{name}_dataloader')
        if loader is None:
            continue
        for key, dataset in inner_datasets(f'{name}_dataloader.dataset',
                                           loader.dataset):
            classes = classes_of(dataset, key)
            if classes is None:
                continue
            if known is None:
                first, known = key, classes
            elif classes != known:
                these, those = apart(classes, known)
                fail(f'{key}: classes', these,
                     f'those of {first}, in the same order: {those}')
    for key, number in _num_classes(cfg) if known is not None else ():
        if number != len(known):
            fail(key, number, f'{len(known)}, the number of the classes of '
                 f'{first}: {", ".join(known[:10])}'
                 + (', ...' if len(known) > 10 else ''))


def _check_preprocessor(cfg: Config) -> None:
    """Say what is not used, as mean and std that are lost go unnoticed."""
    outer = cfg.get('data_preprocessor') or {}
    own = cfg.model.get('data_preprocessor') or {}
    lost = [key for key, x in outer.items() if own.get(key) != x]
    if lost and 'data_preprocessor' in cfg.model:
        warnings.warn(
            'data_preprocessor: the model has its own, so that '
            f'{", ".join(lost)} of this one are not used; set them as '
            'model.data_preprocessor, or leave that out')


def classes_of(dataset: dict, key: str) -> Optional[Tuple[str, ...]]:
    """The classes of the config of a data set, which is called ``key`` in
    messages; None if it does not say."""
    kind = dataset.get('type')
    if not isinstance(kind, type):
        kind = DATASETS.get(type_name(dataset))
    if kind is None:
        return None
    if hasattr(kind, 'classes_in'):  # in its files
        if not dataset.get('data_root'):
            fail(f'{key}.data_root', dataset.get('data_root'),
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


def _num_classes(cfg: Config) -> Iterator[Tuple[str, int]]:
    parts = {f'model.{part}': cfg.model.get(part) for part in PARTS}
    if 'data_preprocessor' not in cfg.model:  # MMEngine hands this one over
        parts['data_preprocessor'] = cfg.get('data_preprocessor')
    for key, part in parts.items():
        number = (part or {}).get('num_classes')
        if isinstance(number, int):
            yield f'{key}.num_classes', number
