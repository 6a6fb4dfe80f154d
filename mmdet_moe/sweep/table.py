"""What the runs of a grid have come to."""
import csv
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, List, Sequence

from terminaltables import AsciiTable

from mmdet_moe.analysis.comparison import (
    P_VALUES,
    columns_of,
    read_run,
    rows_of,
)
from mmdet_moe.files import DataError, replacing

from .grid import COLUMNS, runs_of


def write_table(grid: str, work_dir: Path) -> str:
    """Write ``table.csv``, a row for each MoE layer of each run of a grid that
    has a result, with any seed; return the means over the seeds as text.

    Runs with different options are not taken together in a mean. Those that
    were made with another config are left out, and named in the text.

    Raises:
        DataError: An axis has the name of a column, or nobody knows what a run
            was made with.
    """
    found = (re.fullmatch(r'seed_(\d+)', path.name)
             for path in work_dir.glob('*/seed_*'))
    seeds = sorted({int(one[1]) for one in found if one})
    rows, end = [], ''
    for run in runs_of(grid, seeds=seeds):
        if not run.result(work_dir).is_file():
            continue
        there = run.made_with(work_dir)
        if there['config'] != run.config.pretty_text:
            end += (f'{run.name}, seed {run.seed}: left out, as it was made '
                    'with another config\n')
            continue
        for row in rows_of(read_run(str(run.result(work_dir)))):
            for axis in run.cell:
                if axis in row:
                    raise DataError(f'{grid} has an axis {axis!r}, which is '
                                    'the name of a column of the table')
            del row['run']
            rows.append(dict(
                run.cell, cell=run.name, seed=run.seed, **{
                    key: ' '.join(there[key])
                    for key in ('cfg_options', 'report_options')}, **row))
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
    names = [c for c in COLUMNS if c != 'seed' and c in columns]
    numbers = [c for c in columns if c != 'seed' and any(
        isinstance(row.get(c), (int, float)) for row in rows)]
    cells: Dict[tuple, List[dict]] = {}
    for row in rows:
        cells.setdefault(tuple(row.get(c) for c in names), []).append(row)
    table = [[*names, 'seeds', *(f'largest {c}' if c in P_VALUES else c
                                 for c in numbers)]]
    for cell, own in cells.items():
        table.append([*(x or '-' for x in cell), str(len(own))])
        for c in numbers:
            x = [row[c] for row in own if row.get(c) is not None]
            table[-1].append('-' if not x else f'{max(x):.3g}' if (
                c in P_VALUES) else _mean(x))
    return AsciiTable(table).table + '\n'


def _mean(x: List[float]) -> str:
    spread = f' ± {stdev(x):.2g}' if len(x) > 1 else ''
    return f'{mean(x):.3g}{spread}'
