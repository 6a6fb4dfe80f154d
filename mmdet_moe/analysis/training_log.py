"""How the assignment moved in training, from the logs of a run."""
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from mmdet_moe.files import DataError
from mmdet_moe.names import read_importance, read_size
from mmdet_moe.sizes import SIZES

#: What a layer had at some steps: steps (n,), values (n, ...).
Series = Tuple[np.ndarray, np.ndarray]


@dataclass
class TrainingLog:
    """What was logged.

    Attributes:
        importance: By layer: importance (n, E) at n iterations.
        sizes: By layer: mean weight by object size (n, E, 3) at
            n validations; NaN where there was no such object. Their steps
            are epochs or iterations, as logged.
        notes: What is wrong with the files.
    """
    importance: Dict[str, Series] = field(default_factory=dict)
    sizes: Dict[str, Series] = field(default_factory=dict)
    notes: List[str] = field(default_factory=list)


def find_logs(checkpoint: str) -> List[Path]:
    """The ``scalars.json`` of the runs that wrote into a checkpoint's folder,
    oldest first."""
    return sorted(Path(checkpoint).parent.glob('*/vis_data/scalars.json'))


def read_log(paths: Sequence[Path]) -> TrainingLog:
    """Read MMEngine's logs, line by line.

    A run that begins later than the one before it goes on with it, and counts
    from there; one that begins as early takes its place. A line that cannot
    be read, as the last one of a run that was killed, is left out and noted.

    Args:
        paths: ``scalars.json`` of runs, oldest first.

    Raises:
        DataError: A file is not there.
    """
    log = TrainingLog()
    importance, sizes = {}, {}
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f'the training log {path} does not exist')
        rows = list(_rows(Path(path), log.notes))
        for before, read in ((importance, read_importance),
                             (sizes, read_size)):
            for layer, steps in _find(rows, read).items():
                first = min(steps)
                kept = {
                    step: values
                    for step, values in before.get(layer, {}).items()
                    if step < first
                }
                before[layer] = {**kept, **steps}
    log.importance = {layer: _table(x) for layer, x in importance.items()}
    log.sizes = {
        layer: _table(x, len(SIZES)) for layer, x in sizes.items()
    }
    if len(paths) > 1:
        log.notes.append(
            'The training was logged in several files: ' +
            ', '.join(Path(path).parent.parent.name for path in paths) +
            '. A run that begins later than the one before it is taken to go '
            'on with it, and one that begins as early takes its place.')
    if paths and not log.importance:
        log.notes.append('The training log has no importance of experts: the '
                         'run was cut off before the first entry, or had no '
                         'MoEHook.')
    return log


def _find(rows: Sequence[dict], read: Callable[[str], Optional[tuple]]
          ) -> Dict[str, Dict[int, dict]]:
    """By layer and step: value by place, expert and so on, as read off the
    key."""
    found = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        for key, value in row.items():
            match = read(key)
            if match:
                layer, *place = match
                found[layer][row['step']][tuple(place)] = value
    return found


def _rows(path: Path, notes: List[str]) -> Iterator[dict]:
    with path.open(encoding='utf-8', errors='replace') as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if isinstance(row, dict) and isinstance(row.get('step'), int):
                yield row
            elif line.strip():
                notes.append(f'{path.parent.parent.name}/{path.name}: line '
                             f'{number} is cut off or broken, and left out.')


def _table(steps: Dict[int, dict], *shape: int) -> Series:
    """Values by place (expert, ...), the others of a shape."""
    order = sorted(steps)
    experts = 1 + max(place[0] for row in steps.values() for place in row)
    values = np.full((len(order), experts, *shape), np.nan)
    for i, step in enumerate(order):
        for place, value in steps[step].items():
            values[(i, *place)] = value
    return np.array(order), values
