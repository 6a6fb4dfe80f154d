"""Data sets of labelled pictures whose classes have superclasses."""
from pathlib import Path
from typing import List

from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS

from mmdet_moe.layers.checks import check_choice, fail

from . import cifar, folders


class _WithSuperclasses(BaseDataset):
    """Each picture has a ``gt_superlabel`` beside its ``gt_label``; metainfo
    has ``superclasses`` beside ``classes``, and which one each class is in.

    With ``metainfo=dict(classes=...)`` the classes must be those of the files,
    in their order.
    """

    def _name_classes(self, classes: List[str], superclasses: List[str],
                      of: List[int]) -> None:
        asked = self._metainfo.get('classes')
        if asked is not None and list(asked) != classes:
            fail(f'{type(self).__name__}.metainfo.classes', asked,
                 f'those of {self.data_root}, in the same order: '
                 + ', '.join(classes))
        self._metainfo.update(
            classes=tuple(classes), superclasses=tuple(superclasses),
            superclass_of=tuple(of))


@DATASETS.register_module()
class SuperclassCIFAR100(_WithSuperclasses):
    """CIFAR-100 in its original layout, or what is written like it.

    Args:
        data_root: The folder that has ``cifar-100-python``, or it.
        split: ``'train'`` or ``'test'``.
        kwargs: As of MMPretrain's BaseDataset.

    Raises:
        DataError: See :func:`.cifar.read`.
    """

    def __init__(self, data_root: str, split: str = 'train',
                 **kwargs) -> None:
        self.split = check_choice('split', split, ('train', 'test'))
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    @staticmethod
    def classes_in(data_root: str) -> List[str]:
        """The classes that the files have."""
        return cifar.read_names(Path(data_root))[0]

    def load_data_list(self) -> List[dict]:
        #: What the data are read from.
        self.files = cifar.files(Path(self.data_root), self.split)
        pictures = cifar.read(Path(self.data_root), self.split)
        of = dict(zip(pictures.labels.tolist(),
                      pictures.superlabels.tolist()))
        self._name_classes(
            pictures.classes, pictures.superclasses,
            [of.get(c, -1) for c in range(len(pictures.classes))])
        return [
            # RGB, as those of MMPretrain's CIFAR100
            dict(img=image, gt_label=int(label),
                 gt_superlabel=int(superlabel), img_id=i,
                 img_shape=image.shape[:2], ori_shape=image.shape[:2])
            for i, (image, label, superlabel) in enumerate(zip(
                pictures.images, pictures.labels, pictures.superlabels))
        ]


@DATASETS.register_module()
class SuperclassFolder(_WithSuperclasses):
    """Pictures as ``superclass/class/file``.

    Args:
        data_root: The folder with the superclasses.
        kwargs: As of MMPretrain's BaseDataset.

    Raises:
        DataError: See :func:`.folders.look`.
    """

    def __init__(self, data_root: str, **kwargs) -> None:
        super().__init__(ann_file='', data_root=data_root, **kwargs)

    @staticmethod
    def classes_in(data_root: str) -> List[str]:
        """The classes that the folder has."""
        return folders.look(Path(data_root)).classes

    def load_data_list(self) -> List[dict]:
        found = folders.look(Path(self.data_root))
        self._name_classes(
            found.classes, found.superclasses, found.superclass_of)
        return [
            dict(img_path=str(path), img_id=i, gt_label=label,
                 gt_superlabel=found.superclass_of[label])
            for i, (path, label) in enumerate(zip(found.files, found.labels))
        ]
