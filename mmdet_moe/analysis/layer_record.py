"""What a MoE layer decided about the test pictures, and what is kept of it.

A decision about positions has a row for each of them, 20,000 for a picture of
COCO. So what all decisions add up to is kept, by picture, and of the rows
themselves only those that an object or a detection is under.
"""
from dataclasses import dataclass
from typing import Dict, List, Sequence

import numpy as np
import torch

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
        decisions: By the index of a picture, of some of them, all that was
            decided about it.
    """
    top_k: int
    chooses: bool
    maps: int
    patches: int
    sums: np.ndarray
    together: np.ndarray
    weights: np.ndarray
    logits: np.ndarray
    decisions: Dict[int, Decision]

    @property
    def experts(self) -> int:
        """E"""
        return self.weights.shape[1]


class LayerKeeper:
    """Makes a :class:`LayerRecord` picture by picture.

    Args:
        top_k: K, as trained.
        chooses: Whether a gate has learned the choice.
    """

    def __init__(self, top_k: int, chooses: bool = True) -> None:
        self.top_k, self.chooses = top_k, chooses
        self.maps, self.patches = 0, 1
        self._sums: List[np.ndarray] = []
        self._together = np.zeros(())
        self._weights: List[np.ndarray] = []
        self._logits: List[np.ndarray] = []
        self._rows = 0
        self._decisions: Dict[int, Decision] = {}

    def add(self, decision: Decision, under: Sequence[np.ndarray], *,
            whole: bool) -> List[np.ndarray]:
        """Take what was decided about the next picture.

        Args:
            decision: About this picture alone.
            under: The samples that objects and detections are under, (n,)
                each; -1 for none.
            whole: Whether to keep all of the decision.

        Returns:
            The same as rows of the record's ``weights``, (n,) each.
        """
        if whole:
            self._decisions[len(self._sums)] = decision
        if not decision.scope.rows and decision.about == 'pictures':
            self.maps = len(decision.shapes)
            self.patches = max(
                self.patches, *decision.scope.sizes(decision.shapes))
        places = decision.places()
        number = 1 + int(places.max()) if len(places) else 1
        self._sums.append(
            usage_sums(decision.weights, places, number).float().numpy())
        selected = (decision.weights > 0).double()
        self._together = self._together + (selected.T @ selected).numpy()
        kept = np.unique(np.concatenate(under))
        kept = kept[kept >= 0]
        rows = torch.from_numpy(kept)
        self._weights.append(decision.weights[rows].numpy().astype(float))
        self._logits.append(decision.routing.logits[rows].numpy())
        found = [
            np.where(u >= 0, self._rows + np.searchsorted(kept, u), -1)
            for u in under
        ]
        self._rows += len(kept)
        return found

    def record(self) -> LayerRecord:
        """What was kept, joined."""
        places = max(len(s) for s in self._sums)
        return LayerRecord(
            top_k=self.top_k,
            chooses=self.chooses,
            maps=self.maps,
            patches=self.patches,
            sums=np.stack([
                np.pad(s, ((0, places - len(s)), (0, 0))) for s in self._sums
            ]).astype(float),
            together=self._together,
            weights=np.concatenate(self._weights),
            logits=np.concatenate(self._logits),
            decisions=self._decisions)
