"""Parts: files, each with what is known about some of the test pictures.

A report over a large test set can be made by several processes, and can be
cut off. So what a process knows about its pictures is written for every few
of them: arrays by name, to which those of the other files are appended.
"""
import json
import shutil
import zlib
from collections import defaultdict
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Tuple, Union
from zipfile import BadZipFile

import numpy as np

from mmdet_moe.files import DataError, replacing, write_text

#: Arrays by name, in groups within groups.
Nest = Mapping[str, Union[np.ndarray, 'Nest']]
#: Of a file.
PICTURES = 64
#: Their folder, in that of the report, until all of it is written.
PARTS = 'report_parts'


def join(parts: Iterable[Nest]) -> Nest:
    """Append the arrays of the same name; a part may lack some of them."""
    arrays: Dict[str, List[np.ndarray]] = defaultdict(list)
    for part in parts:
        for name, array in _flat(part):
            arrays[name].append(array)
    return _nested({
        name: np.concatenate(own) for name, own in arrays.items()
    })


class Joined(Mapping):
    """What files have, joined; an array is read when it is asked for, each
    time.

    Args:
        files: By the name of an array the files that have it, in groups
            within groups.
        group: The names of the groups that this one is in, and its own.
    """

    def __init__(self, files: dict, group: Tuple[str, ...] = ()) -> None:
        self._files, self._group = files, group

    def __getitem__(self, name: str) -> Union[np.ndarray, 'Joined']:
        inner, path = self._files[name], (*self._group, name)
        if isinstance(inner, dict):
            return Joined(inner, path)
        return np.concatenate([_array(file, '/'.join(path)) for file in inner])

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Parts:
    """A folder with the parts of all processes.

    Args:
        folder: It is made, and emptied unless ``resume``.
        about: What the parts depend on, such as the checkpoint; to be written
            as JSON.
        rank: Of this process; the first one prepares the folder, before the
            others use it.
        resume: Whether what is there already is to be gone on with.

    Raises:
        DataError: What is there is about something else.
    """

    def __init__(self, folder: Path, about: dict, *, rank: int = 0,
                 resume: bool = False) -> None:
        self.folder, self.rank = folder, rank
        self._waiting: List[Nest] = []
        note = folder / 'about.json'
        if rank == 0 and not (resume and note.is_file()):
            if folder.exists():
                shutil.rmtree(folder)
            write_text(note, json.dumps(about, indent=1))
        elif rank == 0 and _read_note(note) != about:
            raise DataError(
                f'{folder} was made with another config or checkpoint, or '
                'with other options; leave out --resume to begin anew')

    def add(self, part: Nest) -> None:
        """Keep what is known about a picture."""
        self._waiting.append(part)
        if len(self._waiting) == PICTURES:
            self.write()

    def write(self) -> None:
        """Write what was added and is not written yet."""
        if not self._waiting:
            return
        number = len(list(self.folder.glob(f'{self.rank}_*.npz')))
        path = self.folder / f'{self.rank}_{number:06d}.npz'
        with replacing(path, 'wb') as file:
            np.savez(file, **dict(_flat(join(self._waiting))))
        self._waiting = []

    def read(self) -> Joined:
        """All that was written until now, by all processes."""
        files: Dict[str, List[Path]] = defaultdict(list)
        for path in sorted(self.folder.glob('*.npz')):
            with _opened(path) as arrays:
                for name in arrays.files:
                    files[name].append(path)
        return Joined(_nested(files))

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)


def _array(file: Path, name: str) -> np.ndarray:
    with _opened(file) as arrays:
        return arrays[name]


@contextmanager
def _opened(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """A file of arrays.

    Raises:
        DataError: It was cut off, or has changed since it was written.
    """
    try:
        with np.load(path) as arrays:
            yield arrays
    except (BadZipFile, EOFError, ValueError, KeyError, zlib.error) as error:
        raise DataError(f'{path} is damaged ({error}); leave out --resume to '
                        'begin the report anew') from None


def _read_note(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise DataError(f'{path} is damaged; leave out --resume to begin the '
                        'report anew') from None


def _flat(nest: Nest, group: str = '') -> Iterator[Tuple[str, np.ndarray]]:
    for name, inner in nest.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f'{group}{name}/')
        else:
            yield group + name, inner


def _nested(values: Dict[str, Any]) -> dict:
    """``{'group/name': value}`` -> ``{'group': {'name': value}}``"""
    nest: dict = {}
    for name, value in values.items():
        *groups, last = name.split('/')
        inner = nest
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return nest
