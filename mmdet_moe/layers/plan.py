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
        entries: Where the weights of these are in a table (n, E) as one row:
            int64 (pairs,), expert by expert.
        direct: The expert that does everything with weight 1; None if
            there is none.
    """
    rows: Dict[int, Tensor]
    entries: Tensor
    direct: Optional[int]

    @property
    def pairs(self) -> int:
        """How many pairs of sample and expert there are."""
        return len(self.entries)


def make_plans(weights: Sequence[Tensor]) -> List[Plan]:
    """L tensors (n_l, E) -> a plan for each level.

    Weights stay where they are, and counts are brought to the host, L x (E +
    1) of them at once. On a GPU that synchronises, and so do ``nonzero`` and
    ``bincount``, but nothing here grows with L or E.
    """
    table = torch.cat(list(weights)).detach()
    experts, device = table.shape[1], table.device
    sizes = [len(w) for w in weights]
    ends = torch.tensor(sizes, device=device).cumsum(0)
    level = torch.repeat_interleave(
        torch.arange(len(sizes), device=device),
        torch.tensor(sizes, device=device),
        output_size=len(table))
    # The place of a sample in its level: its rows begin where the last end.
    place = torch.arange(len(table), device=device) - (
        ends.roll(1).index_fill(0, ends.new_zeros(1), 0)[level])
    sample, expert = (table != 0).nonzero(as_tuple=True)
    group, order = (level[sample] * experts + expert).sort(stable=True)
    known = torch.cat([
        torch.bincount(group, minlength=len(sizes) * experts),
        torch.bincount(level[(table == 1).any(dim=1)], minlength=len(sizes))
    ]).tolist()
    number, all_one = known[:-len(sizes)], known[-len(sizes):]
    rows = place[sample][order]
    entries = (rows * experts + expert[order]).split(
        [sum(number[i:i + experts]) for i in range(0, len(number), experts)])
    parts = iter(rows.split(number))
    plans = []
    for size, ones, own in zip(sizes, all_one, entries):
        mine = {e: part for e, part in zip(range(experts), parts) if len(part)}
        plans.append(
            Plan(
                rows=mine,
                entries=own,
                direct=next(iter(mine)) if len(mine) == 1
                and ones == size else None))
    return plans
