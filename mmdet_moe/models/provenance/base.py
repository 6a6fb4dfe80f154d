"""Where detections and objects come from: the interface."""
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn


@dataclass(frozen=True)
class Origin:
    """Where n detections, or n annotated objects, of one picture come from.

    Attributes:
        levels: (n,) int64 pyramid level, -1 where there is none.
        items: (n,) int64 number of the region or query in its picture, -1
            where there is none.
    """
    levels: Tensor
    items: Tensor

    @classmethod
    def unknown(cls, n: int, device=None) -> 'Origin':
        """Nothing is known about any of n."""
        nothing = torch.full((n, ), -1, dtype=torch.long, device=device)
        return cls(nothing, nothing)


class Provenance:
    """Says where the detections of one kind of detector come from.

    A prediction is watched, see :meth:`watch`; afterwards, until the next
    one, it answers for each picture of the batch. A detector of another kind
    is a subclass of its own, in a file of its own.

    Attributes:
        num_levels: L, pyramid levels that a detection can come from; 0 if
            there are none.
        level_sizes: Height and width of the feature map of each level, in the
            prediction that was watched.
        prefixes: Start of the names of modules that see regions, cut out of
            all pictures one after the other, rather than pictures.
        later: Start of the names of modules that see detections, once they
            are made, as a mask head does.

    Args:
        detector: A detector of MMDetection.
    """
    num_levels: int = 0
    level_sizes: Sequence[Tuple[int, int]] = ()
    prefixes: Tuple[str, ...] = ()
    later: Tuple[str, ...] = ()

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        """Whether this class can answer for a detector."""
        raise NotImplementedError

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Around one prediction of the detector, for one batch.

        The detector does what it does without, to the last bit, and is left
        as it was, also after an exception.
        """
        yield

    def detections(self, picture: int, found: InstanceData, meta: dict,
                   rescaled: bool = True) -> Origin:
        """Where the detections of a picture come from.

        Args:
            picture: Its number in the batch.
            found: ``bboxes`` (n, 4), ``labels`` and ``scores`` (n,), as the
                detector returned them.
            meta: Of the picture: its sizes and scale.
            rescaled: Whether the boxes are in the original picture's
                coordinates.
        """
        raise NotImplementedError

    def objects(self, objects: Sequence[InstanceData],
                metas: Sequence[dict]) -> Optional[List[Origin]]:
        """Where annotated objects belong, by the rule of the training.

        Args:
            objects: For each picture of the batch ``bboxes`` (n, 4) in the
                original picture's coordinates, and ``labels`` (n,).
            metas: Of the pictures: their sizes and scales.

        Returns:
            None if this detector has no such rule.
        """
        return None

    def item_counts(self) -> List[List[int]]:
        """Possible numbers of items of each picture of the batch.

        For a second stage the numbers of regions, and, where a mask head is
        run on detections, the numbers of these. For queries their number.
        """
        return []
