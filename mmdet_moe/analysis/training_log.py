"""How the assignment moved in training, from the logs of a run."""
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Sequence, Tuple

import numpy as np

from mmdet_moe.evaluation.assignment_table import SIZES
from mmdet_moe.files import DataError

_IMPORTANCE = re.compile(r'moe/(.+)/importance_(\d+)$')
_SIZE = re.compile(rf'moe/(.+)_expert(\d+)_({"|".join(SIZES)})$')


@dataclass
class TrainingLog:
    """What was logged.

    Attributes:
        importance: By layer: iterations (n,), importance (n, E).
        sizes: By name in the metric: epochs (n,), mean weight by object size
            (n, E, 3); NaN where there was no such object.
        notes: What is wrong with the files.
    """
    importance: Dict[str, Tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict)
    sizes: Dict[str, Tuple[np.ndarray, np.ndarray]] = field(
        default_factory=dict)
    notes: List[str] = field(default_factory=list)


def find_logs(checkpoint: str) -> List[Path]:
    """The ``scalars.json`` of the runs that wrote into a checkpoint's folder,
    oldest first."""
    return sorted(Path(checkpoint).parent.glob('*/vis_data/scalars.json'))


def read_log(paths: Sequence[Path]) -> TrainingLog:
    """Read MMEngine's logs, line by line; of a step the last one counts.

    A line that cannot be read, as the last one of a run that was killed, is
    left out and noted.

    Raises:
        DataError: A file is not there.
    """
    log = TrainingLog()
    importance: Dict[str, Dict[int, dict]] = {}
    sizes: Dict[str, Dict[int, dict]] = {}
    for path in paths:
        if not Path(path).is_file():
            raise DataError(f'the training log {path} does not exist')
        for row in _rows(Path(path), log.notes):
            step = row.get('step')
            for key, value in row.items():
                found = _IMPORTANCE.match(key)
                if found:
                    layer, e = found.groups()
                    importance.setdefault(layer, {}).setdefault(
                        step, {})[int(e)] = value
                found = _SIZE.match(key)
                if found:
                    layer, e, size = found.groups()
                    sizes.setdefault(layer, {}).setdefault(
                        step, {})[int(e), SIZES.index(size)] = value
    for layer, steps in importance.items():
        experts = 1 + max(e for row in steps.values() for e in row)
        log.importance[layer] = _table(steps, (experts, ))
    for layer, steps in sizes.items():
        experts = 1 + max(e for row in steps.values() for e, _ in row)
        log.sizes[layer] = _table(steps, (experts, len(SIZES)))
    if paths and not log.importance:
        log.notes.append('the training log has no importance of experts: the '
                         'run was cut off before the first entry, or had no '
                         'MoEHook')
    return log


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
                             f'{number} is cut off or broken, and left out')


def _table(steps: Dict[int, dict],
           shape: tuple) -> Tuple[np.ndarray, np.ndarray]:
    order = sorted(steps)
    values = np.full((len(order), *shape), np.nan)
    for i, step in enumerate(order):
        for place, value in steps[step].items():
            values[(i, *np.atleast_1d(place))] = value
    return np.array(order), values
