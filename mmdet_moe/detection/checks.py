"""What can be wrong with the config of a detector, before it is built."""
from typing import Dict, Iterator, Sequence, Tuple

from mmengine.config import Config

from mmdet_moe.config_parts import metrics_of, type_name
from mmdet_moe.datasets.checks import check_coco_dataset
from mmdet_moe.datasets.classes import check_classes
from mmdet_moe.datasets.evaluators import check_evaluator
from mmdet_moe.datasets.palettes import complete_palettes
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.layers.distributed import launched_rank


def check_config(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse data, classes and channels that do not fit, and give each class
    a colour.

    Args:
        cfg: Of a training or a test.
        loaders: The data loaders that will be used, out of ``train``, ``val``,
            ``test``.

    Raises:
        DataError: See :func:`.check_coco_dataset` and
            :func:`.check_evaluator`.
        ConfigError: The neck's and the head's channels differ, or the classes
            of data and heads.
    """
    _check_channels(cfg.model)
    check_classes(cfg, loaders)
    complete_palettes(cfg, loaders)
    # A large annotation file is read by one process of several.
    if launched_rank() != 0:
        return
    for name in loaders:
        if cfg.get(f'{name}_dataloader') is None:  # training without validation
            continue
        for key, dataset, metrics in _evaluated(cfg, name):
            files = check_coco_dataset(key, dataset, trains=name == 'train')
            for metric_key, metric in metrics.items():
                check_evaluator(metric_key, metric, files)


def _evaluated(cfg: Config,
               name: str) -> Iterator[Tuple[str, dict, Dict[str, dict]]]:
    """The data set of a loader and its metrics, with their keys; or each part
    of joined data with its own metric, where the evaluator keeps them apart.
    """
    key, dataset = f'{name}_dataloader.dataset', cfg[
        f'{name}_dataloader'].dataset
    evaluator = cfg.get(f'{name}_evaluator')
    metrics = {f'{name}_evaluator[{i}]': metric for i, metric in enumerate(
        metrics_of(cfg, f'{name}_evaluator'))}
    if 'datasets' in dataset and isinstance(evaluator, dict) and (
            type_name(evaluator) == 'MultiDatasetsEvaluator'):
        for i, (part, (metric_key, metric)) in enumerate(
                zip(dataset['datasets'], metrics.items())):
            yield f'{key}.datasets.{i}', part, {metric_key: metric}
    else:
        yield key, dataset, metrics


def _check_channels(model: dict) -> None:
    neck, head = model.get('neck') or {}, model.get('bbox_head') or {}
    if not (isinstance(neck, dict) and isinstance(head, dict)):
        return
    given, taken = neck.get('out_channels'), head.get('in_channels')
    if given is not None and taken is not None and given != taken:
        raise ConfigError(
            f'model.bbox_head.in_channels={taken}: allowed is {given}, the '
            'value of model.neck.out_channels')
