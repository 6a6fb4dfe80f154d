"""What carries out the runs of a grid, in processes of their own."""
import json
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Callable, Iterator, Sequence, Set

from mmdet_moe.files import (
    DataError,
    TrainingError,
    hold_folder,
    release_folder,
    write_text,
)
from mmdet_moe.version import __version__

from .grid import SETTINGS, Run


class Tools:
    """The tools, each run in a process of its own.

    Args:
        folder: Of the tools.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: Set[subprocess.Popen] = set()
        self._lock, self._stopped = threading.Lock(), False

    @contextmanager
    def work_in(self, folder: Path
                ) -> Iterator[Callable[[str, Sequence[str]], None]]:
        """What calls a tool, with its arguments, for as long as the block
        lasts; its output goes to ``sweep.log`` of the folder.

        Nobody else can work there meanwhile, nor as long as a tool runs there
        after this process was killed.

        Raises:
            DataError: Somebody else does.
            TrainingError: A tool has failed.
        """
        lock = hold_folder(folder, 'sweep', inherit=True)
        try:
            yield partial(self._call, folder=folder, lock=lock.fileno())
        finally:
            release_folder(folder, 'sweep')

    def _call(self, tool: str, arguments: Sequence[str], *, folder: Path,
              lock: int) -> None:
        log = folder / 'sweep.log'
        with log.open('a') as output:
            with self._lock:
                if self._stopped:
                    raise TrainingError('interrupted')
                process = subprocess.Popen(
                    [sys.executable, str(self.folder / tool), *arguments],
                    stdout=output, stderr=subprocess.STDOUT, pass_fds=[lock])
                self._running.add(process)
            process.wait()
            self._running.discard(process)
        if process.returncode:
            lines = log.read_text(errors='replace').strip().splitlines()
            raise TrainingError(f'{Path(tool).name} failed, see {log}' +
                                ''.join(f': {line}' for line in lines[-1:]))

    def stop(self) -> None:
        """End those that run, and begin no other."""
        with self._lock:
            self._stopped = True
            for process in list(self._running):
                process.terminate()


def carry_out(run: Run, work_dir: Path, tools: Tools,
              cfg_options: Sequence[str] = (),
              report_options: Sequence[str] = ()) -> None:
    """Train, test and report a run, from where it stopped; nothing, if it has
    a result.

    Args:
        run: Of a grid.
        work_dir: Of the sweep.
        tools: Which do it.
        cfg_options: For ``--cfg-options`` of all three.
        report_options: Further arguments of the report.

    Raises:
        DataError: See :meth:`Run.check`.
        TrainingError: One of them has failed; names its log.
    """
    folder = run.folder(work_dir)
    with tools.work_in(folder) as call:
        run.check(work_dir, cfg_options, report_options)
        if run.is_done(work_dir):
            return
        same_report = _note(run, folder, cfg_options, report_options)
        config = write_text(folder / f'{run.name}.py', run.config.pretty_text)
        # The seed comes last, so that no option changes it.
        options = [
            '--cfg-options', *cfg_options, f'randomness.seed={run.seed}']
        call('train.py', [str(config), '--work-dir', str(folder), '--resume',
             *options])
        note = folder / 'last_checkpoint'
        if not note.is_file():
            raise TrainingError(
                f'train.py has written no checkpoint to {folder}')
        checkpoint = note.read_text().strip()
        if run.has_report:
            call('analysis_tools/expert_report.py', [
                 str(config), checkpoint, '--work-dir', str(folder / 'report'),
                 *(['--resume'] if same_report else []), *report_options,
                 *options])
            return
        call('test.py', [str(config), checkpoint, '--work-dir',
             str(folder / 'test'), *options])
        written = sorted((folder / 'test').glob('2*/*.json'))
        if not written:
            raise TrainingError(f'test.py has written no metrics to {folder}')
        write_text(run.result(work_dir), written[-1].read_text())


def _note(run: Run, folder: Path, cfg_options: Sequence[str],
          report_options: Sequence[str]) -> bool:
    """Write down what a run is made with; whether a report that was cut off
    was begun with the same."""
    path = folder / SETTINGS
    now = dict(run.settings(cfg_options, report_options), version=__version__)
    before = json.loads(path.read_text()) if path.is_file() else {}
    write_text(path, json.dumps(now, indent=1))
    return before == now


def sweep(runs: Sequence[Run], work_dir: Path, tools: Path, *, jobs: int = 1,
          cfg_options: Sequence[str] = (),
          report_options: Sequence[str] = ()) -> Iterator[str]:
    """Carry out all runs that have no result yet; one that fails does not
    stop the others.

    Args:
        runs: Of a grid.
        work_dir: Where each has a folder.
        tools: Folder of the tools.
        jobs: How many at a time.
        cfg_options, report_options: As of :func:`carry_out`.

    Yields:
        A line for each run as it ends.

    Raises:
        DataError: A folder was made with other settings.
        TrainingError: It was interrupted, and what was running with it; or,
            after the others, a run has failed.
    """
    for run in runs:
        run.check(work_dir, cfg_options, report_options)
    left = [run for run in runs if not run.is_done(work_dir)]
    failed, running = [], Tools(tools)

    def one(run: Run) -> str:
        try:
            carry_out(run, work_dir, running, cfg_options, report_options)
        except (TrainingError, DataError, OSError) as error:
            failed.append(run)
            return f'{run.name}, seed {run.seed}: {error}'
        return f'{run.name}, seed {run.seed}: done'

    with _terminated_as_interrupted(), ThreadPoolExecutor(jobs) as pool:
        try:
            yield from pool.map(one, left)
        except KeyboardInterrupt:
            raise TrainingError('interrupted; called again, the sweep goes on '
                                'where it stopped') from None
        finally:
            running.stop()
    if failed:
        raise TrainingError(f'{len(failed)} of {len(left)} runs have failed')


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM do what Ctrl-C does, where that can be said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
