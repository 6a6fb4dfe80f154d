"""Colours of classes."""
from typing import Sequence

from mmengine.config import Config

from mmdet_moe.config_parts import inner_datasets

from .checks import dataset_class


def complete_palettes(cfg: Config, loaders: Sequence[str]) -> None:
    """Give each class of a data set a colour.

    A data set with more classes than its type has keeps the colours of the
    type, such as the 80 of COCO, and MMDetection's visualizer refuses the
    classes without one. The colours begin again there.

    Args:
        cfg: Of a training or a test; changed in place.
        loaders: The data loaders that will be used.
    """
    for name in loaders:
        loader = cfg.get(f'{name}_dataloader')
        if loader is None:
            continue
        for _, dataset in inner_datasets('', loader.dataset):
            kind = dataset_class(dataset)
            if not hasattr(kind, '_load_metainfo'):
                continue
            meta = kind._load_metainfo(dataset.get('metainfo'))
            classes, palette = meta.get('classes', ()), meta.get('palette')
            if isinstance(palette, list) and 0 < len(palette) < len(classes):
                dataset['metainfo'] = dict(
                    dataset.get('metainfo') or {},
                    palette=[palette[i % len(palette)]
                             for i in range(len(classes))])
