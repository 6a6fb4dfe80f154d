"""Plan: what a routing has the experts do at one level."""
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence

import torch
from torch import Tensor


@dataclass(frozen=True)
class Plan:
    """Who does what at a level of n samples.

    Attributes:
        rows: By expert, in order, the samples that it has a weight for: int64
            (k,) with k > 0, on the device of the weights. A weight that is
            NaN is one.
        pairs: How many pairs of sample and expert there are.
        direct: The expert that does everything with weight 1; None if
            there is none.
    """
    rows: Dict[int, Tensor]
    pairs: int
    direct: Optional[int]


def make_plans(weights: Sequence[Tensor]) -> List[Plan]:
    """L tensors (n_l, E) -> a plan for each level.

    The weights of all levels are brought to the host at once, and all rows
    back at once: on a GPU each of these is a time to wait.
    """
    known = iter(torch.cat(list(weights)).tolist())
    levels = [[next(known) for _ in range(len(w))] for w in weights]
    chosen = [_chosen(level) for level in levels]
    parts = [rows for level in chosen for rows in level.values()]
    there = iter(
        torch.tensor(sum(parts, []), dtype=torch.long,
                     device=weights[0].device).split([len(p) for p in parts]))
    return [
        Plan(
            rows={e: next(there) for e in mine},
            pairs=sum(map(len, mine.values())),
            direct=next(iter(mine)) if len(mine) == 1 and all(
                max(row) == 1 for row in level) else None)
        for level, mine in zip(levels, chosen)
    ]


def _chosen(level: Sequence[Sequence[float]]) -> Dict[int, List[int]]:
    """Rows of weights -> by expert, in order, those that it is in."""
    rows = {}
    for i, row in enumerate(level):
        for e, weight in enumerate(row):
            if weight != 0:
                rows.setdefault(e, []).append(i)
    return dict(sorted(rows.items()))
