"""What can be wrong with the config of a detector, before it is built."""
from typing import Sequence

from mmengine.config import Config

from mmdet_moe.config_parts import metrics_of
from mmdet_moe.datasets.checks import check_coco_dataset, check_evaluator
from mmdet_moe.datasets.classes import check_classes
from mmdet_moe.layers.checks import ConfigError
from mmdet_moe.layers.distributed import launched_rank


def check_config(cfg: Config, loaders: Sequence[str]) -> None:
    """Refuse data, classes and channels that do not fit.

    Args:
        cfg: Of a training or a test.
        loaders: The data loaders that will be used, out of ``train``, ``val``,
            ``test``.

    Raises:
        DataError: See :func:`.check_coco_dataset`; or a file of an evaluator
            is not there.
        ConfigError: The neck's and the head's channels differ, or the classes
            of data and heads.
    """
    _check_channels(cfg.model)
    check_classes(cfg, loaders)
    # A large annotation file is read by one process of several.
    if launched_rank() != 0:
        return
    for name in loaders:
        loader = cfg.get(f'{name}_dataloader')
        if loader is None:  # training without validation
            continue
        check_coco_dataset(f'{name}_dataloader.dataset', loader.dataset)
        for i, metric in enumerate(metrics_of(cfg, f'{name}_evaluator')):
            check_evaluator(f'{name}_evaluator[{i}]', metric, loader.dataset)


def _check_channels(model: dict) -> None:
    neck, head = model.get('neck') or {}, model.get('bbox_head') or {}
    if not (isinstance(neck, dict) and isinstance(head, dict)):
        return
    given, taken = neck.get('out_channels'), head.get('in_channels')
    if given is not None and taken is not None and given != taken:
        raise ConfigError(
            f'model.bbox_head.in_channels={taken}: allowed is {given}, the '
            'value of model.neck.out_channels')
