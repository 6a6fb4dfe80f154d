"""Checkpoints that are whole, however a run ends."""
import os
from pathlib import Path
from typing import List, Union

from mmengine.fileio import LocalBackend, register_backend

from .files import replacing

Name = Union[str, Path]


@register_backend('WholeFiles')
class WholeFiles(LocalBackend):
    """Local files that are written beside and then renamed.

    For ``backend_args=dict(backend='WholeFiles')`` of a CheckpointHook. A file
    is there as a whole, or as it was before. CheckpointHook removes an old
    checkpoint before it writes the new one; here the old one goes only after
    the new one is whole.
    """
    # MMEngine makes a backend for each file.
    _outdated: List[str] = []

    def put(self, obj: bytes, filepath: Name) -> None:
        """Write bytes, and then remove what was to be removed."""
        path = Path(filepath)
        # A run that was killed while it wrote leaves its part behind.
        for part in path.parent.glob(f'.{path.name}.*.part'):
            part.unlink(missing_ok=True)
        with replacing(path, 'wb', sync=True) as file:
            file.write(obj)
        while self._outdated:
            old = self._outdated.pop()
            if Path(old) != path and os.path.exists(old):
                os.remove(old)

    def remove(self, filepath: Name) -> None:
        """Remove a file as soon as the next one is written."""
        if not self.isfile(filepath):
            super().remove(filepath)  # says what is wrong
        self._outdated.append(str(filepath))
