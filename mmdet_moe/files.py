"""Files: what is wrong with one, writing so that none is left half done, and
whose a folder is."""
import errno
import fcntl
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Dict, Iterator, Literal, Sequence, Union


class DataError(Exception):
    """A file is not there, or not what it should be; says which."""


class TrainingError(Exception):
    """A training cannot go on; says why."""


class ReportError(Exception):
    """A report is written, but parts of it could not be made; says which."""


#: What this process holds, for as long as it lives.
_HELD: Dict[Path, IO] = {}


def hold_folder(folder: Union[str, Path], work: str, *,
                inherit: bool = False) -> IO:
    """Keep other processes from the same work in a folder, until this process
    has ended, however it ends.

    Args:
        folder: It is made if needed.
        work: Name of the work; the file is called ``.{work}.lock``.
        inherit: Whether it is held until all processes have ended that inherit
            the file, too. A data loader's workers live some seconds longer
            than a process that was killed.

    Returns:
        The locked file. It may be passed to another process.

    Raises:
        DataError: Another process holds the folder.
    """
    path = Path(folder).resolve() / f'.{work}.lock'
    if path not in _HELD:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open('w')
        try:
            lock = fcntl.flock if inherit else fcntl.lockf
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.close()
                raise DataError(
                    f'another process is at the same work ({work}) in '
                    f'{folder}: wait for it, end it, or take another folder '
                    'with --work-dir') from None
            # A file system without locks.
        _HELD[path] = file
    return _HELD[path]


def release_folder(folder: Union[str, Path], work: str) -> None:
    """Let others do that work in a folder."""
    file = _HELD.pop(Path(folder).resolve() / f'.{work}.lock', None)
    if file is not None:
        file.close()


def check_writable(path: Union[str, Path]) -> None:
    """See that a file could be written, before what takes long.

    Raises:
        OSError: It could not.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR),
                                str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def common_folder(paths: Sequence[str]) -> str:
    """The innermost folder that all files are in."""
    return os.path.commonpath(
        {os.path.dirname(os.path.abspath(path)) for path in paths})


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
        # Half of a surrogate pair in a name must not cost the whole file.
        text = dict(encoding='utf-8', errors='backslashreplace')
        with os.fdopen(handle, mode, **text if mode == 'w' else {}) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(part, 0o644)  # mkstemp makes files private
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise
