"""COCO-format data whose pictures come from several domains."""
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from mmdet_moe.files import DataError


@DATASETS.register_module()
class DomainCocoDataset(CocoDataset):
    """CocoDataset that brings along the domain of each picture.

    ``PackDetInputs`` hands it on to the data sample if its ``meta_keys`` have
    ``'domain'`` in them. A detector does not look at it.

    Args:
        domain_key: Key of the picture's entry in the annotation file.
        args, kwargs: As of CocoDataset.

    Raises:
        DataError: A picture has no such key.
    """

    def __init__(self, *args, domain_key: str = 'domain', **kwargs) -> None:
        self.domain_key = domain_key
        super().__init__(*args, **kwargs)

    def parse_data_info(self, raw_data_info: dict) -> dict:
        """As of CocoDataset, with ``domain``."""
        info = super().parse_data_info(raw_data_info)
        domain = raw_data_info['raw_img_info'].get(self.domain_key)
        if not isinstance(domain, str):
            raise DataError(
                f"{self.ann_file}: the picture {info['img_path']} has no "
                f"{self.domain_key!r}; every entry of 'images' needs the name "
                'of its domain under that key')
        info['domain'] = domain
        return info
