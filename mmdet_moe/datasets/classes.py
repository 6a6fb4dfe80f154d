"""Whether data, heads and evaluation speak of the same classes."""
from typing import Dict, Iterator, Optional, Sequence, Tuple

from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmdet_moe.config_parts import apart, inner_datasets, type_name
from mmdet_moe.layers.checks import ConfigError, fail

from .checks import dataset_class

#: Heads that have an output for each class, by their keys in a config. What
#: proposes regions has one class of its own.
HEADS = ('bbox_head', 'mask_head')


def check_classes(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse a config whose parts do not have the same classes.

    A detector with another number of classes than its data, or one that is
    tested on classes in another order, trains and tests without a word, and
    is wrong.

    Args:
        cfg: Of a training or a test.
        loaders: Out of ``train``, ``val``, ``test``.

    Raises:
        ConfigError: Two loaders, or a loader and a head, differ.
    """
    # What reads its classes from a text has them in any order and number.
    if 'language_model' in cfg.model:
        return
    known: Dict[str, Tuple[str, ...]] = {}
    for name in loaders:
        loader = cfg.get(f'{name}_dataloader')
        classes = None if loader is None else classes_of(loader.dataset)
        if classes is None:
            continue
        key = f'{name}_dataloader.dataset'
        known[key] = classes
        first = next(iter(known))
        # Trackers are tested on classes of their own.
        kind = dataset_class(next(inner_datasets(key, loader.dataset))[1])
        if classes != known[first] and issubclass(kind, CocoDataset):
            these, those = apart(classes, known[first])
            fail(f'{key}.metainfo.classes', these,
                 f'{those}, those of {first}, in the same order; or is {first} '
                 'the one that is wrong?')
    if not known:
        return
    first, classes = next(iter(known.items()))
    for key, number in _num_classes('model', cfg.model):
        if number != len(classes):
            fail(key, number, f'{len(classes)}, the number of the classes of '
                 f'{first}: {", ".join(classes)}')


def classes_of(dataset: dict) -> Optional[Tuple[str, ...]]:
    """The classes of the objects of the config of a dataset; None if it does
    not say.

    Raises:
        ConfigError: Those of datasets that are joined differ.
    """
    parts = [(key, classes)
             for key, part in inner_datasets(type_name(dataset), dataset)
             if (classes := _own_classes(part)) is not None]
    for key, classes in parts[1:]:
        if classes != parts[0][1]:
            raise ConfigError(
                f'{parts[0][0]} and {key} are joined: their classes differ, '
                'and must be the same, in the same order: '
                + '; '.join(apart(parts[0][1], classes)))
    return parts[0][1] if parts else None


def _own_classes(dataset: dict) -> Optional[Tuple[str, ...]]:
    kind = dataset_class(dataset)
    if kind is None or not issubclass(kind, BaseDataset):
        return None
    metainfo = kind._load_metainfo(dataset.get('metainfo'))
    # Of panoptic data those of things, and not of stuff.
    classes = metainfo.get('thing_classes', metainfo.get('classes'))
    if isinstance(classes, str):
        fail(f'{kind.__name__}.metainfo.classes', classes,
             f'a tuple, such as ({classes!r}, ) for a single class')
    return None if classes is None else tuple(classes)


def _num_classes(key: str, part) -> Iterator[Tuple[str, int]]:
    """``num_classes`` of each head, with its key."""
    if isinstance(part, (list, tuple)):
        for i, one in enumerate(part):
            yield from _num_classes(f'{key}.{i}', one)
    elif isinstance(part, dict):
        heads = any(f'.{head}' in key for head in HEADS)
        if heads and isinstance(part.get('num_classes'), int):
            yield f'{key}.num_classes', part['num_classes']
        for name, value in part.items():
            yield from _num_classes(f'{key}.{name}', value)
