"""Grids: which trainings a sweep has.

A grid is a config file with

- ``base``: the config that all runs are made of, relative to the file, or one
  of a package, such as ``mmdet::...``;
- ``axes``: by name the values of a setting, each with a name and with what
  it sets, as ``--cfg-options`` have it;
- ``others``: by name further configs, which are run as they are, such as a
  model without experts; optional.
"""
import copy
import json
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from inspect import signature
from itertools import product, zip_longest
from pathlib import Path
from shlex import join, quote
from typing import Dict, List, Mapping, Sequence, Union

from mmengine.config import Config
from mmengine.runner import Runner

from mmdet_moe.analysis.parts import PARTS
from mmdet_moe.files import DataError, write_text
from mmdet_moe.launch import OTHER_KEYS, read_config
from mmdet_moe.layers.checks import fail

#: Of the table, beside axes and metrics.
COLUMNS = ('cell', 'cfg_options', 'report_options', 'seed', 'layer')
#: Of a cell: what is a folder's name, and below the work folder.
_NAME = re.compile(r'\w[\w.+,=-]*')
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

    def is_done(self, work_dir: Path) -> bool:
        """Whether all is there, and not only the numbers of a report."""
        result = self.result(work_dir)
        return result.is_file() and not (result.parent / PARTS).exists()

    def settings(self, cfg_options: Sequence[str],
                 report_options: Sequence[str] = ()) -> dict:
        """What the result depends on."""
        return dict(
            config=self.config.pretty_text, cfg_options=list(cfg_options),
            report_options=list(report_options) if self.has_report else [])

    def made_with(self, work_dir: Path) -> dict:
        """The settings of what is there; empty if nothing is.

        Raises:
            DataError: Nobody knows them.
        """
        folder = self.folder(work_dir)
        result = self.result(work_dir).is_file()
        if not (result or (folder / 'last_checkpoint').is_file()):
            return {}
        try:
            found = json.loads((folder / SETTINGS).read_text())
        except (OSError, ValueError):
            raise DataError(f'{folder} has no {SETTINGS}, so nobody knows what '
                            'it was made with: take another --work-dir, or '
                            'remove it') from None
        if not result:  # of a report that is not there yet
            found.pop('report_options', None)
        return found

    def check(self, work_dir: Path, cfg_options: Sequence[str],
              report_options: Sequence[str] = ()) -> None:
        """Refuse a folder that was made with other settings.

        Raises:
            DataError: See above.
        """
        there = self.made_with(work_dir)
        for key, asked in self.settings(cfg_options, report_options).items():
            if there.get(key, asked) != asked:
                raise DataError(
                    f'{self.folder(work_dir)} was made with other settings '
                    f'({key}: {_first_difference(there[key], asked)}): take '
                    'another --work-dir, or remove ' +
                    ('its report' if key == 'report_options' else 'it'))


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
    if Path(grid).suffix in ('.yml', '.yaml'):
        # MMEngine reads them in a way that runs what is in them.
        raise DataError(f'{grid} is no grid: it must be a .py or .json file')
    content = read_config(grid)
    axes = content.get('axes')
    if not isinstance(axes, dict) or not axes or not isinstance(
            content.get('base'), str):
        raise DataError(f"{grid} is no grid; it needs 'base', a config, and "
                        "'axes'")
    for axis, values in axes.items():
        if not isinstance(values, dict) or not values or not all(
                isinstance(options, dict) for options in values.values()):
            raise DataError(
                f'{grid}: axes.{axis}={values!r}: allowed is a dict, by the '
                'name of a value of what it sets, such as '
                "dict(two={'model.bbox_head.moe.top_k': 2})")
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
    base, cells = _read(here, content.base), []
    _check_keys(grid, axes, base)
    for values in product(*(
            [v for v in axes[axis] if v in only.get(axis, axes[axis])]
            for axis in axes)):
        config = copy.deepcopy(base)
        for axis, value in zip(axes, values):
            # Merging takes _delete_ out of what it merges.
            config.merge_from_dict(copy.deepcopy(dict(axes[axis][value])))
        cells.append(('_'.join(values), dict(zip(axes, values)), config, True))
    for name, path in {} if only else content.get('others', {}).items():
        cells.append((name, dict.fromkeys(axes, ''),
                      _read(here, path), False))
    names = [name for name, *_ in cells]
    for name in names:
        if not _NAME.fullmatch(name):
            raise DataError(f'{grid} has a cell {name!r}, which is no name of '
                            'a folder; allowed are letters, digits and the '
                            'characters _ . + - , = after a letter or digit')
        if names.count(name) > 1:
            raise DataError(f'{grid} has two cells of the name {name}; other '
                            'names of the values are needed')
    return [Run(cell, config, name, seed, has_report) for seed in seeds
            for name, cell, config, has_report in cells]


def _check_keys(grid: str, axes: Mapping[str, Mapping], base: Config) -> None:
    """Refuse a setting whose first part the base does not have, nor a runner:
    it would change nothing."""
    known = {*base, *signature(Runner.__init__).parameters, *OTHER_KEYS}
    for axis, values in axes.items():
        for value, settings in values.items():
            for key in settings:
                if key.partition('.')[0] not in known:
                    near = get_close_matches(key.partition('.')[0], known)
                    raise DataError(
                        f'{grid}: axis {axis!r}, value {value!r} sets {key}, '
                        'which the base does not have' + (
                            f'; there is {near[0]}' if near else ''))
        if len(values) > 1:
            merged = set()
            for settings in values.values():
                config = copy.deepcopy(base)
                config.merge_from_dict(copy.deepcopy(dict(settings)))
                merged.add(config.pretty_text)
            if len(merged) == 1:
                raise DataError(f'{grid}: all values of the axis {axis!r} '
                                'give the same config')


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
