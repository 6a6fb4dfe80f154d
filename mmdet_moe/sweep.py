"""Sweeps: many trainings that differ in a few settings.

A grid is a config file with

- ``base``: the config that all runs are made of, relative to the file, or one
  of a package, such as ``mmdet::...``;
- ``axes``: by name the values of a setting, each with a name and with what
  it sets, as ``--cfg-options`` have it;
- ``others``: by name further configs, which are run as they are, such as a
  model without experts; optional.
"""
import copy
import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product, zip_longest
from pathlib import Path
from shlex import join, quote
from statistics import mean, stdev
from typing import Dict, Iterator, List, Mapping, Sequence, Set, Union

from mmengine.config import Config
from terminaltables import AsciiTable

from .analysis.comparison import columns_of, is_p, read_run, rows_of
from .files import DataError, TrainingError, replacing, write_text
from .launch import read_config
from .layers.checks import fail

#: Of the table, beside axes and metrics.
COLUMNS = ('cell', 'options', 'seed', 'layer')
#: In the folder of a run: what it was made with.
SETTINGS = 'settings.json'


@dataclass(frozen=True)
class Run:
    """A training of a grid.

    Attributes:
        cell: By axis the name of its value; of another config ``''``.
        config: What it is a training of.
        name: Of the cell.
        seed: Of the training.
        has_report: Whether it has experts, to be reported.
    """
    cell: Dict[str, str]
    config: Config
    name: str
    seed: int
    has_report: bool

    def folder(self, work_dir: Path) -> Path:
        """Where all is written."""
        return work_dir / self.name / f'seed_{self.seed}'

    def result(self, work_dir: Path) -> Path:
        """What is there in the end."""
        folder = self.folder(work_dir)
        if self.has_report:
            return folder / 'report' / 'report.json'
        return folder / 'test.json'

    def settings(self, options: Sequence[str],
                 report: Sequence[str] = ()) -> dict:
        """What the result depends on."""
        return dict(config=self.config.pretty_text, options=list(options),
                    report=list(report) if self.has_report else [])

    def made_with(self, work_dir: Path) -> dict:
        """The settings of what is there; empty if nothing is."""
        note = self.folder(work_dir) / SETTINGS
        result = self.result(work_dir).is_file()
        begun = (self.folder(work_dir) / 'last_checkpoint').is_file()
        if not note.is_file() or not (result or begun):
            return {}
        found = json.loads(note.read_text())
        if not result:
            found.pop('report', None)  # of a report that is not there yet
        return found

    def check(self, work_dir: Path, options: Sequence[str],
              report: Sequence[str] = ()) -> None:
        """Refuse a folder that was made with other settings.

        Raises:
            DataError: See above.
        """
        asked = self.settings(options, report)
        for key, there in self.made_with(work_dir).items():
            if there != asked[key]:
                raise DataError(
                    f'{self.folder(work_dir)} was made with other settings '
                    f'({key}: {_first_difference(there, asked[key])}): take '
                    'another --work-dir, or remove ' +
                    ('its report' if key == 'report' else 'it'))


def runs_of(grid: str, *, seeds: Sequence[int] = (0, ),
            only: Mapping[str, Sequence[str]] = {}) -> List[Run]:
    """The runs of a grid, seed by seed.

    Args:
        grid: File.
        seeds: Each cell is trained with each of them.
        only: By axis the values that are wanted; all of those that are not
            named. With any, configs that are run as they are are left out.

    Raises:
        DataError: The file is no grid.
        ConfigError: There is no such axis or value.
    """
    content = Config.fromfile(grid)
    axes = content.get('axes')
    if not isinstance(axes, dict) or not axes or 'base' not in content:
        raise DataError(f"{grid} is no grid; it needs 'base' and 'axes'")
    for axis in axes:
        if axis in COLUMNS:
            raise DataError(f'{grid} has an axis {axis!r}, which is the name '
                            'of a column of the table')
    for axis, values in only.items():
        if axis not in axes:
            fail('axis', axis, ' or '.join(axes))
        for value in values:
            if value not in axes[axis]:
                fail(axis, value, ' or '.join(axes[axis]))
    here = Path(grid).parent
    cells = []
    for values in product(*(
            [v for v in axes[axis] if v in only.get(axis, axes[axis])]
            for axis in axes)):
        config = _read(here, content.base)
        for axis, value in zip(axes, values):
            # Merging takes _delete_ out of what it merges.
            config.merge_from_dict(copy.deepcopy(dict(axes[axis][value])))
        cells.append(('_'.join(values), dict(zip(axes, values)), config, True))
    for name, path in {} if only else content.get('others', {}).items():
        cells.append((name, dict.fromkeys(axes, ''),
                      _read(here, path), False))
    names = [name for name, *_ in cells]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f'{grid} has two cells of the name {name}; other '
                            'names of the values are needed')
    return [Run(cell, config, name, seed, report) for seed in seeds
            for name, cell, config, report in cells]


def _first_difference(there: Union[str, List[str]],
                      asked: Union[str, List[str]]) -> str:
    """Of two texts, or of two lists of options."""
    for pair in zip_longest(*(x.splitlines() if isinstance(x, str) else x
                              for x in (there, asked))):
        if pair[0] != pair[1]:
            return 'there {}, asked for {}'.format(*(
                'nothing' if x is None else repr(x.strip()) for x in pair))
    return ''


def _read(here: Path, path: str) -> Config:
    return read_config(path if '::' in path else str(here / path))


def write_configs(runs: Sequence[Run], folder: Path) -> None:
    """Write the config of each cell, to be trained on its own."""
    for run in runs:
        write_text(folder / f'{run.name}.py', run.config.pretty_text)


class Tools:
    """The tools, each run in a process of its own.

    Args:
        folder: Of the tools.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: Set[subprocess.Popen] = set()

    def call(self, tool: str, arguments: Sequence[str], folder: Path) -> None:
        """Run a tool, with its output in ``sweep.log`` of a folder.

        Nobody else can work in that folder as long as the tool runs, even if
        this process is killed meanwhile.

        Raises:
            TrainingError: Somebody else does, or the tool has failed.
        """
        log = folder / 'sweep.log'
        with log.open('a') as output, (folder / 'sweep.lock').open('w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TrainingError(f'another process works in {folder}; wait '
                                    'for it, or end it') from None
            with subprocess.Popen(
                    [sys.executable, str(self.folder / tool), *arguments],
                    stdout=output, stderr=subprocess.STDOUT,
                    pass_fds=[lock.fileno()]) as process:
                self._running.add(process)
                process.wait()
                self._running.discard(process)
        if process.returncode:
            lines = log.read_text(errors='replace').strip().splitlines()
            raise TrainingError(f'{Path(tool).name} failed, see {log}' +
                                ''.join(f': {line}' for line in lines[-1:]))

    def stop(self) -> None:
        """End those that run."""
        for process in list(self._running):
            process.terminate()


def carry_out(run: Run, work_dir: Path, tools: Tools,
              options: Sequence[str] = (), report: Sequence[str] = ()
              ) -> None:
    """Train, test and report a run, from where it stopped.

    Args:
        run: Of a grid.
        work_dir: Of the sweep.
        tools: Which do it.
        options: For ``--cfg-options`` of all three.
        report: Further arguments of the report.

    Raises:
        DataError: See :meth:`Run.check`.
        TrainingError: One of them has failed; names its log.
    """
    folder = run.folder(work_dir)
    run.check(work_dir, options, report)
    write_text(folder / SETTINGS,
               json.dumps(run.settings(options, report), indent=1))
    config = write_text(folder / f'{run.name}.py', run.config.pretty_text)
    # The seed comes last, so that no option changes it.
    options = ['--cfg-options', *options, f'randomness.seed={run.seed}']
    tools.call('train.py', [
        str(config), '--work-dir', str(folder), '--resume', *options], folder)
    note = folder / 'last_checkpoint'
    if not note.is_file():
        raise TrainingError(f'train.py has written no checkpoint to {folder}')
    checkpoint = note.read_text().strip()
    if run.has_report:
        tools.call('analysis_tools/expert_report.py', [
            str(config), checkpoint, '--work-dir', str(folder / 'report'),
            '--resume', *report, *options], folder)
        return
    tools.call('test.py', [str(config), checkpoint, '--work-dir',
               str(folder / 'test'), *options], folder)
    written = sorted((folder / 'test').glob('2*/*.json'))
    if not written:
        raise TrainingError(f'test.py has written no metrics to {folder}')
    write_text(run.result(work_dir), written[-1].read_text())


def sweep(runs: Sequence[Run], work_dir: Path, tools: Path, *, jobs: int = 1,
          options: Sequence[str] = (), report: Sequence[str] = ()
          ) -> Iterator[str]:
    """Carry out all runs that have no result yet; one that fails does not
    stop the others.

    Args:
        runs: Of a grid.
        work_dir: Where each has a folder.
        tools: Folder of the tools.
        jobs: How many at a time.
        options, report: As of :func:`carry_out`.

    Yields:
        A line for each run as it ends.

    Raises:
        DataError: A folder was made with other settings.
        TrainingError: It was interrupted, and what was running with it; or,
            after the others, a run has failed.
    """
    for run in runs:
        run.check(work_dir, options, report)
    left = [run for run in runs if not run.result(work_dir).is_file()]
    failed, running = [], Tools(tools)

    def one(run: Run) -> str:
        try:
            carry_out(run, work_dir, running, options, report)
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


def write_table(grid: str, work_dir: Path) -> str:
    """Write ``table.csv``, a row for each MoE layer of each run of a grid that
    has a result, with any seed; return the means over the seeds as text.

    Runs with different options are not taken together. Those that were made
    with another config are left out, and named in the text.

    Raises:
        DataError: An axis has the name of a column.
    """
    seeds = sorted({int(path.name.removeprefix('seed_'))
                    for path in work_dir.glob('*/seed_*')})
    rows, end = [], ''
    for run in runs_of(grid, seeds=seeds):
        there = run.made_with(work_dir)
        options = there.get('options', [])
        if not run.result(work_dir).is_file():
            continue
        if there.get('config', run.config.pretty_text) != (
                run.config.pretty_text):
            end += (f'{run.name}, seed {run.seed}: left out, as it was made '
                    'with another config\n')
            continue
        for row in rows_of(read_run(str(run.result(work_dir)))):
            for axis in run.cell:
                if axis in row:
                    raise DataError(f'{grid} has an axis {axis!r}, which is '
                                    'the name of a column of the table')
            del row['run']
            rows.append(dict(run.cell, cell=run.name, seed=run.seed,
                             options=' '.join(options), **row))
    if not rows:
        return end + 'no run has a result yet\n'
    columns = columns_of(rows)
    with replacing(work_dir / 'table.csv') as file:
        writer = csv.DictWriter(file, columns, lineterminator='\n',
                                extrasaction='ignore')
        writer.writeheader()
        writer.writerows(rows)
    return _means(rows, columns) + end


def _means(rows: Sequence[dict], columns: Sequence[str]) -> str:
    """A table with a row for each cell and layer: means and standard
    deviations over the seeds, and of p the largest."""
    names = [c for c in ('cell', 'options', 'layer') if c in columns]
    numbers = [c for c in columns if c != 'seed' and any(
        isinstance(row.get(c), (int, float)) for row in rows)]
    cells: Dict[tuple, List[dict]] = {}
    for row in rows:
        cells.setdefault(tuple(row.get(c) for c in names), []).append(row)
    table = [[*names, 'seeds', *(f'largest {c}' if is_p(c) else c
                                 for c in numbers)]]
    for cell, own in cells.items():
        table.append([*(x or '-' for x in cell), str(len(own))])
        for c in numbers:
            x = [row[c] for row in own if row.get(c) is not None]
            spread = f' ± {stdev(x):.2g}' if len(x) > 1 and not is_p(c) else ''
            middle = max if is_p(c) else mean
            table[-1].append(f'{middle(x):.3g}{spread}' if x else '-')
    return AsciiTable(table).table + '\n'


def write_slurm(runs: Sequence[Run], path: Path,
                command: Sequence[str]) -> None:
    """Write a job array for Slurm, a job for each run.

    Args:
        runs: Of a grid.
        path: The script, for ``sbatch``.
        command: What carries out a run, given its name and seed.
    """
    jobs = '\n'.join(
        f'  {i}) ' + join([*command, '--run', run.name,
                          '--seeds', str(run.seed)]) + ' ;;'
        for i, run in enumerate(runs))
    write_text(path, f"""#!/bin/bash
#SBATCH --job-name=sweep
#SBATCH --array=0-{len(runs) - 1}
#SBATCH --gpus=1
#SBATCH --cpus-per-task=4
#SBATCH --output=sweep_%A_%a.log
# Other settings: options of sbatch.
cd {quote(os.getcwd())} || exit 1
case "$SLURM_ARRAY_TASK_ID" in
{jobs}
esac
""")
