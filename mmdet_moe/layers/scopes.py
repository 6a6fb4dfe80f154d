"""Scopes: what one decision of the gate covers.

A scope turns the L inputs of a layer into N samples and back. It says what the
gate sees, what the experts are run on, how their outputs make up the inputs'
shapes again, and which sample a place belongs to. *Pieces* are what the
experts are run on: one tensor with n_l rows for each input. Samples are
numbered input by input, and within an input entry by entry, where an entry is
a picture or a region, the first axis A of an input.

Per image and level (Pavlitska et al. 2022, section III-D) is the default; per
patch is the formulation of arXiv 2604.13761; per row, of a fully connected
layer or a decoder, is what MoE layers of transformers do.
"""
from typing import Callable, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from .checks import check_int
from .experts import check_local, receptive_radius
from .registry import Registry

Levels = Sequence[Tensor]
#: Shape of an input without its channels: (A, H, W), (A,) or (A, T).
Shape = Tuple[int, ...]


class Scope:
    """One decision per entry and input; other scopes override what differs.

    Attributes:
        repeatable: Whether a layer may be called level by level.
        rows: Whether inputs have their channels on the last axis, and the
            gate and the experts see rows (n, C) rather than maps.
    """
    repeatable = True
    rows = False

    def fit(self, expert: nn.Module) -> None:
        """Look at an expert before the first use.

        Raises:
            ValueError: It cannot be run on the pieces of this scope.
        """

    def shapes(self, levels: Levels) -> Tuple[Shape, ...]:
        """Of the inputs, without their channels."""
        return tuple(
            tuple(x.shape[:-1] if self.rows else x.shape[:1] + x.shape[2:])
            for x in levels)

    def decide(self, look: Callable[[Tensor], Tensor],
               levels: Levels) -> Tensor:
        """What a function of pieces, (n, C, h, w) -> (n, ...), says of the
        samples: (N, ...)."""
        return torch.cat([look(x) for x in levels])

    def sizes(self, shapes: Sequence[Shape]) -> List[int]:
        """How the N samples divide into the inputs."""
        return [shape[0] for shape in shapes]

    def entries(self, shapes: Sequence[Shape]) -> Tensor:
        """Which entry of the first axis each sample is about: (N,)."""
        return torch.cat([
            torch.arange(shape[0]).repeat_interleave(size // max(shape[0], 1))
            for shape, size in zip(shapes, self.sizes(shapes))
        ])

    def locate(self, shapes: Sequence[Shape], inputs: Tensor, entries: Tensor,
               centres: Tensor, items: Tensor) -> Tensor:
        """Which sample n places belong to.

        Args:
            shapes: Of the L inputs.
            inputs: (n,) which input.
            entries: (n,) which entry of its first axis.
            centres: (n, 2) y, x on a map, from 0 to below 1.
            items: (n,) which token, where an input has tokens.

        Returns:
            (n,) indices out of N; where inputs or entries are -1, anything;
            -1 where there is no such token.
        """
        return self._starts(shapes)[inputs] + entries

    def divide(self, shape: Shape) -> Tuple[int, int]:
        """Rows and columns of decisions that an input of a shape has."""
        return 1, 1

    def cut(self, levels: Levels) -> List[Tensor]:
        """The pieces that the experts are run on."""
        return list(levels)

    def spread(self, rows: Tensor, shapes: Sequence[Shape]) -> List[Tensor]:
        """A row per sample (N, E) -> a row per piece, [(n_l, E)] * L."""
        return list(rows.split(self.sizes(shapes)))

    def join(self, pieces: Sequence[Tensor],
             shapes: Sequence[Shape]) -> List[Tensor]:
        """What the experts made of the pieces -> L outputs."""
        return list(pieces)

    def total(self, maps: Levels) -> Tensor:
        """Sum of L tensors of the inputs' shapes over each sample: (N,)."""
        return torch.cat([m.sum(dim=(-2, -1)) for m in maps])

    def _starts(self, shapes: Sequence[Shape]) -> Tensor:
        """First sample of each input: (L,)."""
        sizes = torch.tensor(self.sizes(shapes))
        return sizes.cumsum(0) - sizes

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


SCOPES = Registry(Scope)


@SCOPES.register
class LevelScope(Scope):
    """One decision per image and pyramid level: N = L * B, level by level."""


@SCOPES.register
class ImageScope(Scope):
    """One decision per image, for all levels of a call: N = B.

    The gate decides from the mean of its features over the levels; for
    GAP-FC that is the mean of the pooled levels. That mean, too, is what the
    noise is scaled by.
    """
    repeatable = False

    def decide(self, look, levels):
        return torch.stack([look(x) for x in levels]).mean(dim=0)

    def sizes(self, shapes):
        return [shapes[0][0]]

    def locate(self, shapes, inputs, entries, centres, items):
        return entries

    def spread(self, rows, shapes):
        return [rows] * len(shapes)

    def total(self, maps):
        return torch.stack([m.sum(dim=(-2, -1)) for m in maps]).sum(dim=0)


@SCOPES.register
class RowScope(Scope):
    """Each row is a sample of its own: of (n, C) rows, or (B, T, C) tokens.

    For fully connected layers and feed-forward networks, where a row is a
    region of a second stage or a query of a decoder.
    """
    rows = True

    def decide(self, look, levels):
        return torch.cat([look(x) for x in self.cut(levels)])

    def sizes(self, shapes):
        return [torch.Size(shape).numel() for shape in shapes]

    def locate(self, shapes, inputs, entries, centres, items):
        tokens = torch.tensor([torch.Size(s[1:]).numel() for s in shapes])
        has_tokens = torch.tensor([len(s) > 1 for s in shapes])[inputs]
        tokens = tokens[inputs]
        token = items.where(has_tokens, torch.zeros_like(items))
        found = self._starts(shapes)[inputs] + entries * tokens + token
        return found.where((token >= 0) & (token < tokens),
                           torch.full_like(found, -1))

    def cut(self, levels):
        return [x.flatten(0, -2) for x in levels]

    def join(self, pieces, shapes):
        return [y.unflatten(0, shape) for y, shape in zip(pieces, shapes)]

    def total(self, maps):
        return torch.cat([m.flatten() for m in maps])


@SCOPES.register
class PatchScope(Scope):
    """Each patch of a grid on each level is a sample of its own.

    A map is cut into ``grid`` x ``grid`` patches (fewer where it has fewer
    rows or columns), which need not be of equal size. The gate sees the patch;
    an expert sees it with a halo as wide as the expert can look, so that a
    patch is processed as if the whole map went through the expert (but for
    BatchNorm in training, whose statistics are those of the patches with
    their halos). N is the sum over the levels of B times the patches, image
    by image.

    Args:
        grid: g, patches along each side.
    """

    def __init__(self, grid: int = 3) -> None:
        self.grid = check_int('grid', grid, 1)
        self.halo = 0

    def fit(self, expert):
        check_local(expert, 'scope=PatchScope')
        self.halo = receptive_radius(expert)

    def decide(self, look, levels):
        decisions = []
        for x in levels:
            rows, columns = self._axes(x.shape)
            decisions.append(
                torch.stack([
                    look(x[..., top:bottom, left:right])
                    for top, bottom in rows.tiles
                    for left, right in columns.tiles
                ], dim=1).flatten(0, 1))
        return torch.cat(decisions)

    def divide(self, shape):
        return tuple(min(self.grid, n) for n in shape[-2:])

    def sizes(self, shapes):
        return [
            shape[0] * rows * columns for shape in shapes
            for rows, columns in [self.divide(shape)]
        ]

    def locate(self, shapes, inputs, entries, centres, items):
        length = torch.tensor([s[-2:] for s in shapes])[inputs]  # (n, 2)
        number = torch.tensor([self.divide(s) for s in shapes])[inputs]
        position = (centres * length).long().minimum(length - 1)
        # Tile i ends before position (i + 1) * length // number.
        row, column = (((position + 1) * number - 1) // length).unbind(1)
        return (self._starts(shapes)[inputs] + entries * number.prod(1) +
                row * number[:, 1] + column)

    def cut(self, levels):
        pieces = []
        for x in levels:
            rows, columns = self._axes(x.shape)
            pieces.append(
                torch.stack([
                    x[..., y:y + rows.window, z:z + columns.window]
                    for y in rows.starts for z in columns.starts
                ], dim=1).flatten(0, 1))
        return pieces

    def join(self, pieces, shapes):
        maps = []
        for piece, shape in zip(pieces, shapes):
            rows, columns = self._axes(shape)
            windows = iter(piece.unflatten(0, (shape[0], -1)).unbind(1))
            maps.append(
                torch.cat([
                    torch.cat([
                        next(windows)[..., top - y:bottom - y,
                                      left - z:right - z]
                        for (left, right), z in zip(columns.tiles,
                                                    columns.starts)
                    ], dim=-1)
                    for (top, bottom), y in zip(rows.tiles, rows.starts)
                ], dim=-2))
        return maps

    def total(self, maps):
        # A gate with a single, given logit.
        return self.decide(lambda m: m.sum(dim=(-2, -1))[:, None],
                           maps).squeeze(1)

    def _axes(self, shape: Sequence[int]) -> Tuple['_Axis', '_Axis']:
        return (_Axis(shape[-2], self.grid, self.halo),
                _Axis(shape[-1], self.grid, self.halo))

    def __repr__(self) -> str:
        return f'PatchScope(grid={self.grid})'


class _Axis:
    """Tiles along one side of a map, and the windows that contain them.

    All windows are equally long. A window ends at least ``halo`` beyond its
    tile, or at the border of the map, where an expert pads as it would for
    the whole map.
    """

    def __init__(self, length: int, grid: int, halo: int) -> None:
        grid = min(grid, length)
        edges = [i * length // grid for i in range(grid + 1)]
        self.tiles = list(zip(edges, edges[1:]))
        longest = max(end - start for start, end in self.tiles)
        self.window = min(length, longest + 2 * halo)
        self.starts = [
            min(max(start - halo, 0), length - self.window)
            for start, _ in self.tiles
        ]
