"""Pictures as ``SUPERCLASS/CLASS/FILE``."""
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping

import cv2
import numpy as np

from mmdet_moe.files import DataError

from .cifar import SIDE, Pictures

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp')


@dataclass(frozen=True)
class Folder:
    """What is in a folder.

    Attributes:
        files: Of the pictures.
        labels: The class of each.
        classes, superclasses: Their names, sorted.
        superclass_of: By class.
    """
    files: List[Path]
    labels: List[int]
    classes: List[str]
    superclasses: List[str]
    superclass_of: List[int]


def look(root: Path) -> Folder:
    """Find the pictures of a folder.

    Raises:
        DataError: There is none, or a class is in two superclasses.
    """
    files = sorted(path for path in Path(root).glob('*/*/*')
                   if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise DataError(
            f'there is no picture in {root}; expected are '
            'SUPERCLASS/CLASS/FILE, with ' + ', '.join(EXTENSIONS))
    above: Dict[str, str] = {}
    for path in files:
        name, superclass = path.parent.name, path.parent.parent.name
        if above.setdefault(name, superclass) != superclass:
            raise DataError(f'{root} has the class {name} in two '
                            f'superclasses, {above[name]} and {superclass}')
    classes, superclasses = sorted(above), sorted(set(above.values()))
    number = {name: i for i, name in enumerate(classes)}
    return Folder(files, [number[path.parent.name] for path in files],
                  classes, superclasses,
                  [superclasses.index(above[name]) for name in classes])


def read(roots: Mapping[str, Path],
         names: Mapping[str, str]) -> Dict[str, Pictures]:
    """Read folders of the same classes, scaled to CIFAR-100's size.

    Args:
        roots: By part of the data set.
        names: Of classes that are called otherwise than their folders.

    Raises:
        DataError: See :func:`look`; the classes of two parts differ, or a
            picture cannot be read.
    """
    found = {part: look(root) for part, root in roots.items()}
    first_part, first = next(iter(found.items()))
    for part, folder in found.items():
        if (folder.classes, folder.superclass_of) != (
                first.classes, first.superclass_of):
            other = sorted({*folder.classes} ^ {*first.classes})
            raise DataError(
                f'{roots[part]} and {roots[first_part]} have different '
                'classes' + (f': {", ".join(other[:5])}' if other else ''))
    classes = [names.get(name, name) for name in first.classes]
    twice = sorted({name for name in classes if classes.count(name) > 1})
    if twice:
        raise DataError(f'several folders are classes of the name {twice[0]}; '
                        'give them different names')
    return {
        part: Pictures(
            np.stack([_scaled(path) for path in folder.files]),
            np.array(folder.labels),
            np.array(folder.superclass_of)[folder.labels],
            classes, folder.superclasses)
        for part, folder in found.items()
    }


def _scaled(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f'the picture {path} cannot be read; is the file '
                        'complete and a picture?')
    return cv2.resize(image, (SIDE, SIDE),
                      interpolation=cv2.INTER_AREA)[..., ::-1]
