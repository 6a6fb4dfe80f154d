"""Pictures as ``SUPERCLASS/CLASS/FILE``."""
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Mapping, Set

import cv2
import numpy as np
from PIL import Image

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


def read_names(path: Path) -> Dict[str, str]:
    """The names of classes by their folders, out of a JSON file.

    Raises:
        DataError: It is no such file.
    """
    try:
        names = json.loads(path.read_text(encoding='utf-8'))
    except OSError:
        raise DataError(f'{path} does not exist or cannot be read') from None
    except ValueError as error:
        raise DataError(f'{path} is not valid JSON ({error})') from None
    if not isinstance(names, dict) or not all(
            isinstance(name, str) for name in names.values()):
        raise DataError(f'{path} is no list of names; expected is '
                        '{"FOLDER": "NAME", ...}')
    return names


def read(roots: Mapping[str, Path],
         names: Mapping[str, str]) -> Dict[str, Pictures]:
    """Read folders of the same classes, scaled to CIFAR-100's size.

    Args:
        roots: By part of the data set.
        names: Of all classes by their folders, if these are called otherwise.

    Raises:
        DataError: See :func:`look`; the classes of two parts differ, the names
            are not those of the folders, or a picture cannot be read.
    """
    found = {part: look(root) for part, root in roots.items()}
    first_part, first = next(iter(found.items()))
    for part, folder in found.items():
        other = sorted(_paths(folder) ^ _paths(first))
        if other:
            raise DataError(
                f'{roots[part]} and {roots[first_part]} have different '
                f'classes: {", ".join(other[:5])}')
    unnamed = sorted({*first.classes} - {*names}) if names else []
    unknown = sorted({*names} - {*first.classes})
    if unnamed or unknown:
        raise DataError(
            f'the names do not fit the folders of {roots[first_part]}: ' +
            ('there is none for ' + ', '.join(unnamed[:5]) if unnamed else
             'there is no folder ' + ', '.join(unknown[:5])))
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


def _paths(folder: Folder) -> Set[str]:
    """The classes, with the superclass that each is in."""
    return {f'{folder.superclasses[i]}/{name}'
            for name, i in zip(folder.classes, folder.superclass_of)}


def _scaled(path: Path) -> np.ndarray:
    try:  # a small file may have more pixels than there is memory
        Image.open(path).close()
    except Image.DecompressionBombError as error:
        raise DataError(f'the picture {path} is too large: {error}') from None
    except OSError:
        pass  # OpenCV may know what it is
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise DataError(f'the picture {path} cannot be read; is the file '
                        'complete and a picture?')
    return cv2.resize(image, (SIDE, SIDE),
                      interpolation=cv2.INTER_AREA)[..., ::-1]
