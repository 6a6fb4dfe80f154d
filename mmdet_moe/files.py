"""Files: what is wrong with one, and writing so that none is left half done."""
import os
import tempfile
from pathlib import Path
from typing import Union


class DataError(Exception):
    """A file is not there, or not what it should be; says which."""


def write_text(path: Union[str, Path], text: str) -> Path:
    """Write ``text`` to ``path`` at once; makes the folder if needed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.')
    try:
        with os.fdopen(handle, 'w', encoding='utf-8') as f:
            f.write(text)
        os.chmod(part, 0o644)  # mkstemp makes files private
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
    return path
