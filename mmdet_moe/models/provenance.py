"""Where detections and objects come from: the interface."""
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Iterator, List, Optional, Sequence, Tuple

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.layers import Decision, join


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


class Undecided(Exception):
    """Why nothing is known of what a layer decided about detections."""


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
        num_items: For each picture of that prediction the number of its
            regions or queries. Empty if the detector has neither.
        heads: Start of the names of modules that see the maps of the levels,
            or of one of them.
        item_modules: Start of the names of modules that see regions or
            queries, of all pictures one after the other, on the first axis.
        query_modules: Start of the names of modules whose tokens are queries.
            The tokens of others are not, even if they are as many.
        whole: Start of the names of modules of a head that see one map about
            all levels.
        later: Start of the names of modules that see detections, once they
            are made, as a mask head does.

    Args:
        detector: A detector of MMDetection.
    """
    num_levels: int = 0
    level_sizes: Sequence[Tuple[int, int]] = ()
    num_items: Sequence[int] = ()
    heads: Tuple[str, ...] = ()
    item_modules: Tuple[str, ...] = ()
    query_modules: Tuple[str, ...] = ('', )
    whole: Tuple[str, ...] = ()
    later: Tuple[str, ...] = ()
    #: What failed while a prediction was watched; None if nothing did.
    failure: Optional[Exception] = None

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector

    def failed(self, error: Exception) -> None:
        """Note what failed in a prediction, which goes on."""
        self.failure = self.failure or error

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

    def detections(self, picture: int, found: InstanceData,
                   meta: dict) -> Origin:
        """Where the detections of a picture come from.

        Args:
            picture: Its number in the batch.
            found: ``bboxes`` (n, 4), ``labels`` and ``scores`` (n,), as the
                detector returned them, in the original picture's coordinates.
            meta: Of the picture: its sizes and scale.
        """
        return Origin.unknown(len(found.labels), found.labels.device)

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

    def about(self, layer: str, calls: Sequence[Decision],
              pictures: int) -> Tuple[Decision, Sequence[int]]:
        """What a layer decided in the prediction that was watched.

        Args:
            layer: Its name in the detector.
            calls: Its decisions, one for each call.
            pictures: B, the size of the batch.

        Returns:
            One decision, and how many of its entries are about each picture.

        Raises:
            Undecided: It cannot be told.
        """
        if not calls:
            raise Undecided('it is not used in prediction')
        if layer.startswith(self.later):
            raise Undecided('it sees detections that are made already')
        if f'{layer}.'.startswith(self.item_modules):
            # Later calls are about detections, as of a mask head.
            counts, entries = self.num_items, calls[0].entries
            if sum(counts) != entries:
                raise Undecided(f'it decides about {entries} things, and '
                                f'there are {sum(counts)} regions or queries')
            return replace(calls[0], about='items'), counts
        rows = calls[0].scope.rows
        # The last of the layers of a decoder that share it makes the result.
        decision = _of_last_layer(
            calls[-1], pictures) if rows else join(calls)
        if decision.entries != pictures:
            raise Undecided(f'it decides about {decision.entries} things where '
                            f'there are {pictures} pictures')
        levels = None
        if rows:
            self._check_tokens(layer, *decision.shapes[0])
        else:
            levels = self._levels_of(layer, [s[1:] for s in decision.shapes])
        return replace(decision, levels=levels), [1] * pictures

    def _check_tokens(self, layer: str, pictures: int, *tokens: int) -> None:
        """Tokens that are queries can be told, others cannot."""
        if tokens and (tokens not in {(n, ) for n in self.num_items}
                       or not layer.startswith(self.query_modules)):
            # as the positions that an encoder sees
            many = ' x '.join(map(str, tokens))
            raise Undecided(f'it decides about {many} tokens of a picture '
                            'that are no queries')

    def _levels_of(self, layer: str,
                   sizes: Sequence[Tuple[int, ...]]
                   ) -> Optional[Tuple[int, ...]]:
        """The pyramid level of each input of a layer, by its size.

        A head sees the maps of the levels, and maybe not all of them. A
        single map elsewhere, as in a backbone, is about all levels: None.
        """
        if len(sizes) == 1 and (
                self.num_levels < 2 or not layer.startswith(self.heads)
                or layer.startswith(self.whole)):
            return None
        pooled = set(sizes) == {(1, 1)}  # as by an attention to a map
        for levels in self._by_number(layer, len(sizes)):
            if pooled or all(
                    tuple(size) == tuple(self.level_sizes[level])
                    for size, level in zip(sizes, levels)):
                return levels
        levels = []
        for n, size in enumerate(sizes):
            alike = [i for i, own in enumerate(self.level_sizes)
                     if tuple(own) == tuple(size)]
            if not alike:
                raise Undecided(f'it sees maps of {sizes[0]} and so on, and '
                                f'the detections come from {self.num_levels} '
                                'levels of other sizes')
            # A map may come more than once, as in a neck that is recursive.
            levels.append(alike[sizes[:n].count(size) % len(alike)])
        return tuple(levels)

    def _by_number(self, layer: str,
                   calls: int) -> Iterator[Tuple[int, ...]]:
        """The levels of the calls of a layer, as its place suggests.

        A list of as many modules as there are levels has one for each; a
        layer that is called for each level is called in their order, maybe
        more than once for each (the shared towers of RTMDet-Ins).
        """
        levels = range(len(self.level_sizes))
        names = layer.split('.')
        for i in range(len(names) - 1 if calls == 1 else 0):
            part = self.detector.get_submodule('.'.join(names[:i + 1]))
            if isinstance(part, nn.ModuleList) and (
                    len(part) == len(levels)):
                yield (int(names[i + 1]), )
        times, rest = divmod(calls, len(levels)) if levels else (0, 0)
        if times and not rest:
            yield tuple(i for i in levels for _ in range(times))
            yield tuple(levels) * times


class UnknownProvenance(Provenance):
    """Any detector: nothing is known of where its detections come from."""

    @classmethod
    def fits(cls, detector: nn.Module) -> bool:
        return True


def _of_last_layer(decision: Decision, pictures: int) -> Decision:
    """Tokens of all layers of a decoder, of which the last one's count:
    (layers, B, T) -> (B, T)."""
    layers, *shape = decision.shapes[0]
    if len(shape) == 2 and shape[0] == pictures:
        return replace(
            decision.part(layers - 1, layers), shapes=(tuple(shape), ))
    return decision
