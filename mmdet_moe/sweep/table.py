"""What the runs of a grid have come to."""
import csv
from pathlib import Path
from statistics import mean, stdev
from typing import Dict, List, Sequence

from terminaltables import AsciiTable

from mmdet_moe.analysis.comparison import columns_of, is_p, read_run, rows_of
from mmdet_moe.files import DataError, replacing

from .grid import runs_of


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
