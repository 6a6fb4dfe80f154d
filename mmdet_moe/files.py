"""Files: what is wrong with one, and writing so that none is left half done."""
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Iterator, Literal, Union


class DataError(Exception):
    """A file is not there, or not what it should be; says which."""


class TrainingError(Exception):
    """A training cannot go on; says why."""


def write_text(path: Union[str, Path], text: str) -> Path:
    """Write ``text`` to ``path`` at once; makes the folder if needed."""
    with replacing(path) as file:
        file.write(text)
    return Path(path)


@contextmanager
def replacing(path: Union[str, Path], mode: Literal['w', 'wb'] = 'w', *,
              sync: bool = False) -> Iterator[IO]:
    """A file that takes the place of ``path`` once it is complete.

    Args:
        path: To be written.
        mode: Of text or bytes.
        sync: Whether it is on the disk before it takes that place.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(
        dir=path.parent, prefix=f'.{path.name}.', suffix='.part')
    try:
        with os.fdopen(handle, mode,
                       encoding='utf-8' if mode == 'w' else None) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(part, 0o644)  # mkstemp makes files private
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
