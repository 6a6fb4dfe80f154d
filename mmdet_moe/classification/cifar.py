"""CIFAR-100 (Krizhevsky 2009): its files, with classes and superclasses.

The files are pickles. They are read without running what is in them: numbers,
texts, lists and NumPy arrays are all that can come out of one.
"""
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Literal, Sequence, Tuple

import numpy as np

from mmdet_moe.files import DataError, replacing

#: What the folder is called in the archive of its authors.
FOLDER = 'cifar-100-python'
#: Height and width of a picture.
SIDE = 32
Part = Literal['train', 'test']

_ALLOWED = {
    ('_codecs', 'encode'),
    ('numpy', 'dtype'),
    ('numpy', 'ndarray'),
    ('numpy.core.multiarray', '_reconstruct'),
    ('numpy._core.multiarray', '_reconstruct'),
}


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures.

    Attributes:
        images: (n, 32, 32, 3) uint8, RGB.
        labels: (n,) class.
        superlabels: (n,) superclass.
        classes, superclasses: Their names.
    """
    images: np.ndarray
    labels: np.ndarray
    superlabels: np.ndarray
    classes: List[str]
    superclasses: List[str]


def read(root: Path, part: Part) -> Pictures:
    """Read a part of the data set in its original layout.

    Args:
        root: The folder with ``meta``, ``train`` and ``test``, or the one that
            has it as ``cifar-100-python``.
        part: Which of the two.

    Raises:
        DataError: A file is missing, cut off, holds anything but numbers,
            texts and arrays, or its labels and pictures do not fit.
    """
    classes, superclasses = read_names(root)
    path = _folder(root) / part
    content = _load(path, dict(
        data=np.ndarray, fine_labels=list, coarse_labels=list))
    data = content['data']
    if data.dtype != np.uint8 or data.ndim != 2 or (
            data.shape[1] != 3 * SIDE**2):
        raise DataError(
            f'{path} has data of the shape {data.shape} and type {data.dtype}; '
            f'it should be (n, {3 * SIDE**2}) and uint8')
    labels, superlabels = (
        _labels(path, key, content[key], len(data), of)
        for key, of in (('fine_labels', classes),
                        ('coarse_labels', superclasses)))
    images = data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return Pictures(images, labels, superlabels, classes, superclasses)


def read_names(root: Path) -> Tuple[List[str], List[str]]:
    """The names of the classes and superclasses.

    Args:
        root: As of :func:`read`.

    Raises:
        DataError: The file with them is missing or damaged.
    """
    names = _load(_folder(root) / 'meta', dict(
        fine_label_names=list, coarse_label_names=list))
    fine, coarse = ([_text(name) for name in names[f'{kind}_label_names']]
                    for kind in ('fine', 'coarse'))
    return fine, coarse


def write(root: Path, parts: Dict[Part, Pictures]) -> Path:
    """Write a data set in that layout, to be read by others as well.

    Args:
        root: The folder that gets ``cifar-100-python``.
        parts: Of the same classes.

    Returns:
        ``root``.
    """
    folder = Path(root) / FOLDER
    one = next(iter(parts.values()))
    files: Dict[str, dict] = {'meta': {
        'fine_label_names': one.classes,
        'coarse_label_names': one.superclasses}}
    for part, pictures in parts.items():
        files[part] = {
            'data': pictures.images.transpose(0, 3, 1, 2).reshape(
                len(pictures.images), -1),
            'fine_labels': pictures.labels.tolist(),
            'coarse_labels': pictures.superlabels.tolist()}
    for name, content in files.items():
        with replacing(folder / name, 'wb') as file:
            pickle.dump(content, file, protocol=2)
    return Path(root)


def files(root: Path, part: Part) -> List[Path]:
    """The files that a part of the data set is read from."""
    return [_folder(root) / 'meta', _folder(root) / part]


def _folder(root: Path) -> Path:
    root = Path(root)
    return root / FOLDER if (root / FOLDER).is_dir() else root


class _Unpickler(pickle.Unpickler):

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f'it would call {module}.{name}')


def _load(path: Path, needed: Dict[str, type]) -> dict:
    try:
        with path.open('rb') as file:
            content = _Unpickler(file, encoding='bytes').load()
    except OSError:
        raise DataError(
            f'{path} does not exist or cannot be read; it should be the file '
            f'{path.name!r} of CIFAR-100 in its original layout '
            f'({FOLDER}/meta, train, test)') from None
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(f'{path} is not a file of CIFAR-100, or is not '
                        f'complete: {error}') from None
    content = {_text(key): value for key, value in content.items()
               } if isinstance(content, dict) else {}
    for key, kind in needed.items():
        if not isinstance(content.get(key), kind):
            raise DataError(f'{path} has no {key!r}, or it is no '
                            f'{kind.__name__}; is it a file of CIFAR-100?')
    return content


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _labels(path: Path, key: str, labels: list, number: int,
            names: Sequence[str]) -> np.ndarray:
    if len(labels) != number:
        raise DataError(f'{path} has {len(labels)} {key} for {number} pictures')
    for i, label in enumerate(labels):
        if not isinstance(label, int) or not 0 <= label < len(names):
            raise DataError(
                f'{path} has {label!r} as {key}[{i}]; allowed are 0 to '
                f'{len(names) - 1}, as there are {len(names)} names in meta')
    return np.array(labels, int)
