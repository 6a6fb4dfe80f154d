"""Parts of configs, whoever builds them."""
from pathlib import Path
from typing import Iterator, Optional, Sequence, Tuple

from mmengine.registry import Registry
from mmengine.utils import get_installed_path


def type_name(cfg: dict) -> str:
    """The name of the class that a config is of, whether it names the class,
    with a scope like ``mmdet.`` or without, or holds it."""
    kind = cfg.get('type')
    return kind.__name__ if isinstance(kind, type) else (
        str(kind).rsplit('.', 1)[-1])


def in_scope(name: str, cfg: dict) -> str:
    """How a config names a type that is registered in MMDetection's scope:
    with ``mmdet.`` before it where the config is of another library."""
    home = 'mmdet'
    return name if cfg.get('default_scope') in (None, home) else (
        f'{home}.{name}')


def class_of(registry: Registry, cfg: dict) -> Optional[type]:
    """The class that a config is of; None if it is not known."""
    kind = cfg.get('type')
    if not isinstance(kind, str):
        return kind
    # Of the scope that the config is built in, which may be another library's.
    with registry.switch_scope_and_registry(None) as current:
        return current.get(kind) or registry.get(kind)


def inner_datasets(key: str, dataset: dict) -> Iterator[Tuple[str, dict]]:
    """The configs of the data sets inside of wrappers, which are joined if
    there are several, each with its key."""
    if 'dataset' in dataset:
        yield from inner_datasets(f'{key}.dataset', dataset['dataset'])
    elif 'datasets' in dataset:
        for i, part in enumerate(dataset['datasets']):
            yield from inner_datasets(f'{key}.datasets.{i}', part)
    else:
        yield key, dataset


def metrics_of(cfg: dict, key: str) -> list:
    """The metrics of an evaluator of a config, one or several, also inside of
    an evaluator that has a type of its own."""
    evaluator = cfg.get(key) or []
    if isinstance(evaluator, dict):
        evaluator = evaluator.get('metrics', evaluator)
    return [evaluator] if isinstance(evaluator, dict) else list(evaluator)


def apart(one: Sequence[str], other: Sequence[str]) -> Tuple[str, str]:
    """Two lists of classes in words that show the first difference."""
    first = next((i for i, (a, b) in enumerate(zip(one, other)) if a != b),
                 min(len(one), len(other)))
    return _around(one, first), _around(other, first)


def _around(classes: Sequence[str], place: int) -> str:
    if len(classes) <= 10:
        return ', '.join(classes)
    begin, end = max(0, place - 3), place + 3
    shown = ['...'] * (begin > 0) + list(classes[begin:end])
    shown += ['...'] * (end < len(classes))
    return f'{", ".join(shown)} ({len(classes)} classes)'


def packaged_file(path: str) -> Path:
    """The file of a config that an installed package has."""
    package, _, name = path.partition('::')
    return Path(get_installed_path(package), '.mim', 'configs', name)
