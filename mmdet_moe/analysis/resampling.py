"""Bootstrap over pictures: how sure a figure is.

Objects of a picture share its decisions, so pictures are drawn, not objects.
"""
from typing import Dict, Optional

import numpy as np

#: Part of the resamples that an interval holds.
COVERAGE = 0.95


def bootstrap_counts(pictures: int, resamples: int,
                     rng: np.random.Generator) -> np.ndarray:
    """How often each picture is drawn: (resamples, pictures), with return."""
    return rng.multinomial(pictures, np.full(pictures, 1 / pictures),
                           size=resamples)


def interval(samples: np.ndarray) -> Optional[Dict[str, float]]:
    """The middle 95 % of the resampled figures (percentile bootstrap).

    Args:
        samples: (resamples,); NaN where a resample had nothing to count.

    Returns:
        ``low`` and ``high``; None if half of the resamples or more had
        nothing to count.
    """
    known = samples[~np.isnan(samples)]
    if 2 * known.size <= samples.size:
        return None
    tail = (1 - COVERAGE) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return dict(low=float(low), high=float(high))
