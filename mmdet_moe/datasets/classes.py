"""Whether data, heads and evaluation speak of the same classes."""
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.dataset import BaseDataset

from mmdet_moe.layers.checks import ConfigError, fail

from .checks import dataset_class, type_name

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
    known: Dict[str, Tuple[str, ...]] = {}
    for name in loaders:
        loader = cfg.get(f'{name}_dataloader')
        classes = None if loader is None else classes_of(loader.dataset)
        if classes is not None:
            known[f'{name}_dataloader.dataset'] = classes
    if not known:
        return
    (first, classes), *others = known.items()
    for other, own in others:
        if own != classes:
            fail(f'{other}.metainfo.classes', own,
                 f'{classes}, those of {first}, in the same order')
    for key, number in _num_classes('model', cfg.model):
        if number != len(classes):
            fail(key, number, f'{len(classes)}, the number of the classes of '
                 f'{first}: {", ".join(classes)}')


def classes_of(dataset: dict) -> Optional[Tuple[str, ...]]:
    """The classes of the config of a dataset; None if it does not say.

    Raises:
        ConfigError: Those of datasets that are joined differ.
    """
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if 'datasets' in dataset:
        parts: List[Tuple[str, ...]] = [
            c for part in dataset['datasets'] if (c := classes_of(part))]
        if len(set(parts)) > 1:
            raise ConfigError(
                f'{type_name(dataset)}.datasets: these classes differ, and '
                f'must be the same, in the same order: {parts[0]}, '
                f'{next(p for p in parts if p != parts[0])}')
        return parts[0] if parts else None
    kind = dataset_class(dataset)
    if kind is None or not issubclass(kind, BaseDataset):
        return None
    classes = kind._load_metainfo(dataset.get('metainfo')).get('classes')
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
