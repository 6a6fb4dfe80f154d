"""Gate logits in two dimensions."""
from dataclasses import dataclass
from typing import Dict, List, Literal, Optional, Tuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from .records import Records

#: With fewer decisions there is nothing to see.
LEAST = 10
MOST = 2000
METHODS = ('tsne', 'pca')


@dataclass(frozen=True)
class Embedding:
    """Decisions as points.

    Attributes:
        points: (n, 2).
        groups: By grouping: group of each point, names.
        method: How the points were made, in words.
    """
    points: np.ndarray
    groups: Dict[str, Tuple[np.ndarray, List[str]]]
    method: str


def embed(records: Records,
          layer: str,
          *,
          method: Literal['tsne', 'pca'] = 'tsne',
          seed: int = 0) -> Optional[Embedding]:
    """The logits of decisions that have objects under them.

    A decision is in the groups that most of its objects are in.

    Args:
        records: Of a run.
        layer: Name of a MoE layer.
        method: ``'tsne'`` or ``'pca'``.
        seed: Of the choice of 2,000 decisions if there are more, and t-SNE.

    Returns:
        None where there are fewer than 10 decisions, or all logits are alike.
    """
    things = records.labelled[records.located(layer, records.labelled)]
    if len(things) == 0:
        return None
    units, index = np.unique(things.under[layer], return_inverse=True)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(units))[:MOST]
    logits = records.layers[layer].logits[units[chosen]]
    if len(chosen) < LEAST or np.ptp(logits, axis=0).max() < 1e-6:
        return None
    groups = {}
    for by, names in records.groupings.items():
        group = things.groups[by]
        if (group >= 0).all():
            votes = np.zeros((len(units), len(names)))
            np.add.at(votes, (index, group), 1)
            groups[by] = votes[chosen].argmax(axis=1), names
    if method == 'pca':
        pca = PCA(min(2, logits.shape[1]))
        points = pca.fit_transform(logits)
        if points.shape[1] == 1:  # E = 1
            points = np.pad(points, ((0, 0), (0, 1)))
        explained = pca.explained_variance_ratio_.sum()
        return Embedding(points, groups,
                         f'PCA, {100 * explained:.0f} % of the variance')
    perplexity = min(30, (len(chosen) - 1) // 3)
    points = TSNE(
        perplexity=perplexity, init='pca', random_state=seed).fit_transform(
            logits.astype(np.float32)) if logits.shape[1] > 1 else None
    if points is None:
        return None
    return Embedding(points, groups, f't-SNE, perplexity {perplexity}')
