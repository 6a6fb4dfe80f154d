"""Checkpoints that are whole, however a run ends."""
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import DefaultDict, List, Union

from mmengine.fileio import LocalBackend, register_backend

from .files import replacing, write_text

Name = Union[str, Path]
#: In a folder: a new file, and the old ones that go as soon as it is there.
NOTE = '.outdated.json'


@register_backend('WholeFiles')
class WholeFiles(LocalBackend):
    """Local files that are written beside and then renamed.

    For ``backend_args=dict(backend='WholeFiles')`` of a CheckpointHook. A file
    is there as a whole, or as it was before. CheckpointHook removes an old
    checkpoint before it writes the new one; here the old one goes only after
    the new one in its folder is whole. If a run is killed in between, it goes
    when the next one is written.
    """
    # By folder, as several runs may be in one process. MMEngine makes a
    # backend for each file.
    _outdated: DefaultDict[Path, List[str]] = defaultdict(list)

    def put(self, obj: bytes, filepath: Name) -> None:
        """Write bytes, and then remove what was to be removed."""
        path = Path(filepath)
        _finish(path.parent)
        # A run that was killed while it wrote leaves its part behind.
        for part in path.parent.glob(f'.{path.name}.*.part'):
            part.unlink(missing_ok=True)
        old = [o for o in self._outdated[path.parent] if o != path.name]
        with replacing(path, 'wb', sync=True) as file:
            file.write(obj)
            if old:
                write_text(path.parent / NOTE,
                           json.dumps(dict(new=path.name, old=old)))
        self._outdated.pop(path.parent)
        _finish(path.parent)

    def remove(self, filepath: Name) -> None:
        """Remove a file as soon as the next one in its folder is written."""
        if not self.isfile(filepath):
            super().remove(filepath)  # says what is wrong
        path = Path(filepath)
        self._outdated[path.parent].append(path.name)


def _finish(folder: Path) -> None:
    """Remove what a note says, if the new file has come."""
    note = folder / NOTE
    if not note.is_file():
        return
    content = json.loads(note.read_text())
    if (folder / content['new']).is_file():
        for name in content['old']:
            (folder / Path(name).name).unlink(missing_ok=True)
    os.remove(note)
