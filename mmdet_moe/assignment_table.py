"""Expert weights of objects -> tables, in numpy."""
from typing import Dict, Mapping

import numpy as np
import torch

from mmdet_moe.layers import (
    coefficient_of_variation,
    living_experts,
    split_usage,
)


def usage(sums: np.ndarray) -> dict:
    """Importance and share of each expert, and how even they are.

    Args:
        sums: (2 + 2E,) what decisions add up to, as ``usage_sums`` of
            ``mmdet_moe.layers`` has it.

    Returns:
        ``importance`` (mean weight) and ``share`` (part of the samples with a
        weight above 0), E numbers each; ``importance_cv`` and ``share_cv``,
        their coefficients of variation (unbiased); ``living_experts``, the
        number with a share above 0.
    """
    number, _, weights, load = split_usage(sums)
    importance, share = weights / number, load / number
    cv = [
        coefficient_of_variation(torch.from_numpy(x)).item()
        for x in (importance, share)
    ]
    return dict(
        importance=importance.tolist(),
        share=share.tolist(),
        importance_cv=cv[0],
        share_cv=cv[1],
        living_experts=living_experts(torch.from_numpy(share)))


def assignment_table(weights: np.ndarray, group: np.ndarray,
                     names: Mapping[int, str]) -> Dict[str, dict]:
    """Mean expert weights of the objects of each group.

    Args:
        weights: (n, E), a row for each object.
        group: (n,) int, the group that the object is in.
        names: Name of each group; they all have an entry in the result.

    Returns:
        By name: ``count``; ``weight`` (mean, E numbers); ``leading`` (share
        of the objects for which the expert has the highest weight, E
        numbers). The last two are None where the count is 0.
    """
    table = {}
    for index, name in names.items():
        rows = weights[group == index]
        row = dict(count=len(rows), weight=None, leading=None)
        if len(rows):
            leaders = np.bincount(
                rows.argmax(axis=1), minlength=rows.shape[1])
            row.update(
                weight=rows.mean(axis=0).tolist(),
                leading=(leaders / len(rows)).tolist())
        table[name] = row
    return table
