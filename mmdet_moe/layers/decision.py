"""Decision: what a MoE layer decided in a call, and what about."""
from dataclasses import dataclass, replace
from typing import Literal, Optional, Sequence, Tuple

import torch
from torch import Tensor

from .routing import Routing
from .scopes import Scope, Shape


@dataclass(frozen=True)
class Decision:
    """What a layer decided about its L inputs; nothing of it ever changes.

    The inputs have a common first axis of A entries: pictures, or regions
    that were cut out of pictures. :meth:`part` is the decision about some of
    them, :meth:`at` finds what was decided about a box.

    Attributes:
        routing: Of the N samples.
        scope: What a sample is.
        shapes: Of the L inputs, without their channels: (A, H, W) of a map,
            (A,) of rows, (A, T) of tokens.
        about: What the first axis counts.
        levels: Which pyramid level each of the inputs is. None: an input is
            about all levels, as in a backbone.
        extent: Height and width of what the maps cover, in the unit of the
            boxes that will be asked for; None until it is known. Negative
            where the maps are of a flipped image.
        start: Where the maps begin, y and x, in the same unit.
        features: (N, C) the mean features of each sample; None if nobody has
            asked for them.
        real: (N,) bool, whether a sample is about its image, and not only
            about the padding of a batch; None if all are.
    """
    routing: Routing
    scope: Scope
    shapes: Tuple[Shape, ...]
    about: Literal['pictures', 'items'] = 'pictures'
    levels: Optional[Tuple[int, ...]] = None
    extent: Optional[Tuple[float, float]] = None
    start: Tuple[float, float] = (0.0, 0.0)
    features: Optional[Tensor] = None
    real: Optional[Tensor] = None

    @property
    def weights(self) -> Tensor:
        """(N, E) expert weights."""
        return self.routing.weights

    def of_images(self, rows: Tensor) -> Tensor:
        """Rows (N, ...), without those about padding only."""
        return rows if self.real is None else rows[self.real]

    @property
    def entries(self) -> int:
        """A, length of the first axis."""
        return self.shapes[0][0]

    def detach(self) -> 'Decision':
        """The same decision without its graph."""
        return replace(self, routing=self.routing.detach())

    def cpu(self) -> 'Decision':
        """The same decision in the host's memory."""
        return replace(
            self,
            routing=self.routing.to('cpu'),
            features=None if self.features is None else self.features.cpu(),
            real=None if self.real is None else self.real.cpu())

    def part(self, start: int, stop: int, **known) -> 'Decision':
        """The decision about the entries from ``start`` to ``stop`` - 1.

        Args:
            start, stop: Out of 0 to A.
            known: Attributes that are known by now, such as ``extent``.
        """
        entry = self.scope.entries(self.shapes)
        rows = ((entry >= start) & (entry < stop)).nonzero().flatten()
        return replace(
            self,
            routing=self.routing[rows],
            features=None if self.features is None else self.features[rows],
            real=None if self.real is None else self.real[rows],
            shapes=tuple((stop - start, *s[1:]) for s in self.shapes),
            **known)

    def places(self) -> Tensor:
        """(N,) which place of its entry each sample is about: which input, or
        which token of a decoder."""
        if not self.scope.rows:
            sizes = torch.tensor(self.scope.sizes(self.shapes))
            return torch.arange(len(sizes)).repeat_interleave(sizes)
        entry = self.scope.entries(self.shapes)
        order = entry.argsort(stable=True)
        first = torch.searchsorted(entry[order], entry[order])
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order)) - first
        return places

    def find(self,
             boxes: Tensor,
             levels: Optional[Tensor] = None,
             items: Optional[Tensor] = None) -> Tensor:
        """Which sample each of n boxes belongs to.

        Args:
            boxes: (n, 4) as x1, y1, x2, y2, in the unit of ``extent``.
            levels: (n,) the pyramid level of each, -1 if it has none; None if
                none has.
            items: (n,) the number of its region or query, likewise.

        Returns:
            (n,) int64, -1 for a box that no sample is about: of another
            level, or of no level, region or query where one is needed.
        """
        nowhere = torch.full((len(boxes), ), -1)
        levels, items = (
            nowhere if x is None else x.cpu() for x in (levels, items))
        inputs = self._inputs(levels)
        entries = items if self.about == 'items' else torch.zeros_like(items)
        centres = self._relative(boxes)
        if self.about == 'items':
            centres = torch.full_like(centres, 0.5)  # the map is the region's
        found = self.scope.locate(self.shapes, inputs, entries, centres, items)
        known = (inputs >= 0) & (entries >= 0) & (entries < self.entries)
        return found.where(known, nowhere)

    def at(self,
           boxes: Tensor,
           levels: Optional[Tensor] = None,
           items: Optional[Tensor] = None) -> Tensor:
        """Expert weights of n boxes, (n, E); NaN where :meth:`find` has no
        sample. The arguments are those of :meth:`find`."""
        found = self.find(boxes, levels, items)
        return rows_at(self.weights, found)

    def over(self,
             boxes: Tensor,
             levels: Optional[Tensor] = None,
             items: Optional[Tensor] = None) -> Tensor:
        """Expert weights of n boxes, the mean over each box rather than at its
        centre, as :meth:`at` has them: over the positions of its map whose
        centres are in it, each with the weights of its sample.

        Where there is none, as for a box that is smaller than a position, and
        where a decision is not about a place, it is what :meth:`at` gives.
        The decision must be about one picture; the arguments are those of
        :meth:`find`.
        """
        found = self.find(boxes, levels, items)
        means = rows_at(self.weights, found)
        if (self.about == 'items' or self.scope.rows
                or max(self.scope.sizes(self.shapes)) == self.entries):
            return means  # no decision is about a part of a map
        inputs = self._inputs(
            torch.full((len(boxes), ), -1) if levels is None else levels.cpu())
        low, high = torch.stack([
            self._unit(x) for x in boxes.detach().cpu().double().view(
                -1, 2, 2).flip(-1).unbind(1)]).sort(dim=0).values
        for index in inputs.unique().tolist():
            here = ((inputs == index) & (found >= 0)).nonzero().flatten()
            if index < 0 or not len(here):
                continue
            grid = self.grid(index)
            rows, columns = (
                (low[here, axis, None] <= at) & (at <= high[here, axis, None])
                for axis, n in enumerate(grid.shape)
                for at in [(torch.arange(n) + 0.5) / n])
            inside = (rows[:, :, None] & columns[:, None]).flatten(1).to(means)
            covered = inside.sum(dim=1, keepdim=True)
            mean = inside @ self.weights[grid.flatten()] / covered
            here = here.to(means.device)
            means[here] = torch.where(covered > 0, mean, means[here])
        return means

    def grid(self, index: int) -> Tensor:
        """Which sample each position of an input is in, if it is a map of one
        picture.

        Args:
            index: Which of the L inputs.

        Returns:
            (H, W) int64 indices out of N.
        """
        height, width = self.shapes[index][-2:]
        y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
        centres = torch.cartesian_prod(y, x).reshape(-1, 2)
        here = torch.full((len(centres), ), index)
        entry = torch.zeros_like(here)
        return self.scope.locate(self.shapes, here, entry, centres,
                                 entry - 1).view(height, width)

    def _inputs(self, levels: Tensor) -> Tensor:
        """(n,) levels -> which of the L inputs is about them, or -1."""
        if not self.scope.of_one_input:
            return torch.zeros_like(levels)
        if self.levels is None:
            # One input is about everything; of several it is not known.
            return torch.full_like(levels, 0 if len(self.shapes) == 1 else -1)
        index = torch.full((2 + max((*self.levels, *levels.tolist(), 0)), ), -1)
        # Backwards, so that the first of several inputs of a level counts;
        # the last entry, that of level -1, stays.
        for i, level in reversed(list(enumerate(self.levels))):
            index[level] = i
        return index[levels]

    def _relative(self, boxes: Tensor) -> Tensor:
        """(n, 4) boxes -> their centres (n, 2) as y, x, from 0 to below 1."""
        boxes = boxes.detach().cpu().double()
        centres = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2
        return self._unit(centres).clamp(0, 1 - 1e-9)

    def _unit(self, points: Tensor) -> Tensor:
        """(n, 2) as y, x, in parts of what the maps cover."""
        return (points - points.new_tensor(self.start)) / points.new_tensor(
            self.extent or (1.0, 1.0))


def rows_at(values: Tensor, index: Tensor) -> Tensor:
    """Rows of (N, ...) at (n,) indices, NaN where the index is -1."""
    index = index.to(values.device)
    if not len(values):
        return values.new_full((len(index), *values.shape[1:]), torch.nan)
    rows = values[index.clamp_min(0)]
    known = (index >= 0).view(-1, *[1] * (rows.dim() - 1))
    return rows.where(known, rows.new_tensor(torch.nan))


def join(decisions: Sequence[Decision]) -> Decision:
    """Calls of one layer, one after the other, as one decision.

    So a layer that is called level by level has one decision about all levels.
    """
    first = decisions[0]
    if len(decisions) == 1:
        return first
    return replace(
        first,
        routing=Routing.cat([d.routing for d in decisions]),
        features=None if first.features is None else torch.cat(
            [d.features for d in decisions]),
        real=None if all(d.real is None for d in decisions) else torch.cat([
            torch.ones_like(d.weights[:, 0], dtype=torch.bool)
            if d.real is None else d.real for d in decisions]),
        shapes=tuple(shape for d in decisions for shape in d.shapes))
