"""COCO-format data whose pictures come from several domains."""
from mmdet.datasets import CocoDataset
from mmdet.registry import DATASETS

from mmdet_moe.files import DataError


def domain_of(image: dict, key: str, ann_file: str) -> str:
    """The domain of a picture's entry in an annotation file.

    Raises:
        DataError: It has no such key.
    """
    if not isinstance(image.get(key), str):
        raise DataError(
            f"{ann_file}: the picture {image['file_name']} has no {key!r}; "
            "every entry of 'images' needs the name of its domain under that "
            'key')
    return image[key]


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
        info['domain'] = domain_of(
            raw_data_info['raw_img_info'], self.domain_key, self.ann_file)
        return info
