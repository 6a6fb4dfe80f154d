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
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from shlex import join, quote
from statistics import mean, stdev
from typing import Dict, Iterator, List, Mapping, Optional, Sequence

from mmengine.config import Config
from terminaltables import AsciiTable

from .analysis.comparison import read_run, rows_of
from .files import DataError, TrainingError, replacing, write_text
from .launch import read_config
from .layers.checks import fail

#: Of the table, beside axes and metrics.
COLUMNS = ('cell', 'seed', 'layer', 'living')
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

    def settings(self, options: Sequence[str]) -> dict:
        """What the result depends on."""
        return dict(config=self.config.pretty_text, options=list(options))

    def check(self, work_dir: Path,
              options: Optional[Sequence[str]] = None) -> None:
        """Refuse a folder that was made with another config, or with other
        options, if these are given.

        Raises:
            DataError: See above.
        """
        note = self.folder(work_dir) / SETTINGS
        if not note.is_file():
            return
        there, asked = json.loads(note.read_text()), self.settings(
            options or ())
        for key in ('config', 'options') if options is not None else (
                'config', ):
            if there[key] != asked[key]:
                raise DataError(
                    f'{self.folder(work_dir)} was made with another {key}: '
                    'take another --work-dir, or remove it')


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
    if not isinstance(axes, dict) or 'base' not in content:
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


def _read(here: Path, path: str) -> Config:
    return read_config(path if '::' in path else str(here / path))


def write_configs(runs: Sequence[Run], folder: Path) -> None:
    """Write the config of each cell, to be trained on its own."""
    for run in runs:
        write_text(folder / f'{run.name}.py', run.config.pretty_text)


def carry_out(run: Run, work_dir: Path, tools: Path,
              options: Sequence[str] = (), report: Sequence[str] = ()
              ) -> None:
    """Train, test and report a run, from where it stopped.

    Args:
        run: Of a grid.
        work_dir: Of the sweep.
        tools: Folder of the tools.
        options: For ``--cfg-options`` of all three.
        report: Further arguments of the report.

    Raises:
        TrainingError: One of them has failed; names its log.
    """
    folder = run.folder(work_dir)
    run.check(work_dir, options)
    write_text(folder / SETTINGS, json.dumps(run.settings(options), indent=1))
    config = write_text(folder / f'{run.name}.py', run.config.pretty_text)
    options = ['--cfg-options', f'randomness.seed={run.seed}', *options]
    _call(tools / 'train.py', [
        str(config), '--work-dir', str(folder), '--resume', *options], folder)
    note = folder / 'last_checkpoint'
    if not note.is_file():
        raise TrainingError(f'train.py has written no checkpoint to {folder}')
    checkpoint = note.read_text().strip()
    if run.has_report:
        _call(tools / 'analysis_tools' / 'expert_report.py', [
              str(config), checkpoint,
              '--work-dir', str(folder / 'report'), '--resume', *report,
              *options], folder)
        return
    _call(tools / 'test.py', [str(config), checkpoint, '--work-dir',
          str(folder / 'test'), *options], folder)
    written = sorted((folder / 'test').glob('2*/*.json'))
    if not written:
        raise TrainingError(f'test.py has written no metrics to {folder}')
    write_text(run.result(work_dir), written[-1].read_text())


def _call(tool: Path, arguments: Sequence[str], folder: Path) -> None:
    """Run a tool, with its output in ``sweep.log``."""
    log = folder / 'sweep.log'
    with log.open('a') as output:
        done = subprocess.run([sys.executable, str(tool), *arguments],
                              stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        lines = log.read_text(errors='replace').strip().splitlines()
        raise TrainingError(f'{tool.name} failed, see {log}' +
                            ''.join(f': {line}' for line in lines[-1:]))


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
        TrainingError: After the others, if any has failed.
    """
    for run in runs:
        run.check(work_dir, options)
    left = [run for run in runs if not run.result(work_dir).is_file()]
    failed = []

    def one(run: Run) -> str:
        try:
            carry_out(run, work_dir, tools, options, report)
        except (TrainingError, DataError, OSError) as error:
            failed.append(run)
            return f'{run.name}, seed {run.seed}: {error}'
        return f'{run.name}, seed {run.seed}: done'

    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(one, left)
    if failed:
        raise TrainingError(f'{len(failed)} of {len(left)} runs have failed')


def write_table(runs: Sequence[Run], work_dir: Path) -> str:
    """Write ``table.csv``, a row for each run and MoE layer that has a result,
    and return the means over the seeds as text."""
    rows = []
    for run in runs:
        run.check(work_dir)
        if run.result(work_dir).is_file():
            found = read_run(str(run.result(work_dir)))
            rows += [dict(run.cell, cell=run.name, seed=run.seed, **{
                key: x for key, x in row.items() if key != 'run'
            }) for row in rows_of(found)]
    if not rows:
        return 'no run has a result yet\n'
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(work_dir / 'table.csv') as file:
        writer = csv.DictWriter(file, columns, lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    cells: Dict[tuple, List[dict]] = {}
    for row in rows:
        cells.setdefault((row['cell'], row.get('layer')), []).append(row)
    numbers = [c for c in columns if c != 'seed' and any(
        isinstance(row.get(c), (int, float)) for row in rows)]
    table = [['cell', 'layer', 'seeds', *numbers]]
    for (cell, layer), own in cells.items():
        table.append([cell, layer or '-', str(len(own)),
                      *(_mean([row.get(c) for row in own]) for c in numbers)])
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


def _mean(values: Sequence) -> str:
    values = [x for x in values if x is not None]
    if not values:
        return '-'
    spread = f' ± {stdev(values):.2g}' if len(values) > 1 else ''
    return f'{mean(values):.3g}{spread}'
