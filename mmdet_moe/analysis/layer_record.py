"""What a MoE layer decided about the test pictures, and what is kept of it.

A decision about positions has a row for each of them, 20,000 for a picture of
COCO. So what all decisions add up to is kept, by picture, and of the rows
themselves only those that an object or a detection is under.
"""
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from mmdet_moe.layers import Decision, usage_sums


@dataclass(frozen=True)
class LayerRecord:
    """What a layer decided about I pictures.

    Attributes:
        top_k: K, as trained.
        chooses: Whether a gate has learned the choice.
        maps: Maps of a picture that a decision is about, 0 if it is about
            regions or queries.
        patches: Decisions about a map, at most.
        sums: (I, P, 2 + 2E) what the decisions about each picture add up to,
            by place: level or query.
        together: (E, E) how many decisions selected both of two experts.
        weights: (N, E) expert weights of the N decisions that were kept.
        logits: (N, E) gate logits of the same.
        grids: By the index of a picture, of some of them, the expert weights
            of each of its maps, (h, w, E).
        frames: By the same, where these maps begin and how far they reach,
            in pixels of the picture: (2, 2), ``start`` and ``extent`` of
            :class:`.Decision`.
    """
    top_k: int
    chooses: bool
    maps: int
    patches: int
    sums: np.ndarray
    together: np.ndarray
    weights: np.ndarray
    logits: np.ndarray
    grids: Dict[int, List[np.ndarray]]
    frames: Dict[int, np.ndarray]

    @property
    def experts(self) -> int:
        """E"""
        return self.weights.shape[1]


def observe(
    decision: Decision, under: Sequence[np.ndarray], weights: Tensor,
    logits: Tensor) -> Tuple[Dict[str, np.ndarray], List[np.ndarray]]:
    """What is kept of a decision about one picture.

    Args:
        decision: About this picture alone.
        under: The rows that what is annotated, and what is predicted, is
            under, (n,) each; -1 for none.
        weights, logits: (N, E), of these rows.

    Returns:
        Arrays, which those of other pictures can be appended to; and the same
        as ``under``, as rows of ``weights`` among them.
    """
    places = decision.places()
    number = 1 + int(places.max()) if len(places) else 1
    counted = decision.of_images(decision.weights)
    selected = (counted > 0).double()
    kept = np.unique(np.concatenate(under))
    kept = kept[kept >= 0]
    rows = torch.from_numpy(kept)
    maps = not decision.scope.rows and decision.about == 'pictures'
    return dict(
        sums=usage_sums(counted, decision.of_images(places),
                        number).float().numpy(),
        places=np.array([number]),
        together=(selected.T @ selected).numpy()[None],
        weights=weights[rows].numpy().astype(float),
        logits=logits[rows].numpy(),
        rows=np.array([len(kept)]),
        maps=np.array([len(decision.shapes) if maps else 0]),
        patches=np.array(
            [max(1, *decision.scope.sizes(decision.shapes)) if maps else 1])
    ), [np.where(u >= 0, np.searchsorted(kept, u), -1) for u in under]


def grids_of(decision: Decision) -> Dict[str, np.ndarray]:
    """The expert weights of each map of a picture, (h, w, E), by its number;
    none if the decision is about regions or queries."""
    if decision.scope.rows or decision.about != 'pictures':
        return {}
    return {
        str(m): decision.weights[decision.grid(m)].numpy()
        for m in range(len(decision.shapes))
    }


def layer_record(kept: Dict[str, np.ndarray],
                 order: Optional[np.ndarray] = None,
                 *,
                 top_k: int,
                 chooses: bool = True,
                 grids: Optional[dict] = None,
                 frames: Optional[dict] = None) -> LayerRecord:
    """A record of what :func:`observe` gave for pictures, appended.

    Args:
        kept: Those arrays.
        order: (I,) which of the appended pictures each one of the record is;
            as they come by default.
        top_k, chooses, grids, frames: As of the record.
    """
    ends = np.cumsum(kept['places'])
    most = int(kept['places'].max())
    sums = np.stack([
        np.pad(kept['sums'][end - n:end], ((0, most - n), (0, 0)))
        for n, end in zip(kept['places'], ends)
    ]).astype(float)
    return LayerRecord(
        top_k=top_k,
        chooses=chooses,
        maps=int(kept['maps'].max()),
        patches=int(kept['patches'].max()),
        sums=sums if order is None else sums[order],
        together=kept['together'].sum(axis=0),
        weights=kept['weights'],
        logits=kept['logits'],
        grids=grids or {},
        frames=frames or {})
