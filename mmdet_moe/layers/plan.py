"""Plan: on the host, what a routing has the experts do at one level."""
from typing import Sequence


class Plan:
    """Who does what at a level.

    Args:
        weights: Of each piece, E numbers.

    Attributes:
        rows: By expert, in order, the pieces that it has a weight for. A
            weight that is NaN is one.
        pairs: How many pairs of piece and expert there are.
        direct: The expert that does everything with weight 1; None if
            there is none.
    """

    def __init__(self, weights: Sequence[Sequence[float]]) -> None:
        rows = {}
        for i, row in enumerate(weights):
            for e, weight in enumerate(row):
                if weight != 0:
                    rows.setdefault(e, []).append(i)
        self.rows = dict(sorted(rows.items()))
        self.pairs = sum(map(len, rows.values()))
        self.direct = next(iter(rows)) if len(rows) == 1 and all(
            max(row) == 1 for row in weights) else None
