"""Parts: what is known about some of the test pictures, in files.

A report over a large test set can be made by several processes, and can be
cut off. What each of them keeps of its pictures are arrays by name, to which
those of other pictures can be appended, and a file for every few pictures.
"""
import json
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, Tuple, Union

import numpy as np

from mmdet_moe.files import DataError, replacing, write_text

#: Arrays by name, in groups within groups.
Nest = Dict[str, Union[np.ndarray, 'Nest']]
#: Of a file.
PICTURES = 64


def join(parts: Iterable[Nest]) -> Nest:
    """Append arrays of the same name; what some do not have is not there."""
    arrays: Dict[str, List[np.ndarray]] = defaultdict(list)
    for part in parts:
        for name, array in _flat(part):
            arrays[name].append(array)
    return _nested({
        name: np.concatenate(own) for name, own in arrays.items()
    })


class Parts:
    """A folder of what the processes of a run know.

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
            shutil.rmtree(folder, ignore_errors=True)
            write_text(note, json.dumps(about, indent=1))
        elif rank == 0 and json.loads(note.read_text()) != about:
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

    def read(self) -> Nest:
        """All that was written, by all processes."""
        return join(map(_load, self._files()))

    def column(self, name: str) -> np.ndarray:
        """One array of what was written, by its name as in ``'group/name'``;
        empty if there is none."""
        found = []
        for file in self._files():
            with np.load(file) as arrays:
                found.append(arrays[name])
        return np.concatenate(found) if found else np.empty(0)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)

    def _files(self) -> List[Path]:
        return sorted(self.folder.glob('*.npz'))


def _load(path: os.PathLike) -> Nest:
    with np.load(path) as arrays:
        return _nested(dict(arrays))


def _flat(nest: Nest, group: str = '') -> Iterator[Tuple[str, np.ndarray]]:
    for name, inner in nest.items():
        if isinstance(inner, dict):
            yield from _flat(inner, f'{group}{name}/')
        else:
            yield group + name, inner


def _nested(arrays: Dict[str, np.ndarray]) -> Nest:
    nest: Nest = {}
    for name, array in arrays.items():
        *groups, last = name.split('/')
        inner = nest
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = array
    return nest
