"""Scope of patches: each part of a grid is a sample, and an expert sees more.

Per patch is the formulation of arXiv 2604.13761.
"""
from typing import Sequence, Tuple

import torch

from .checks import check_int
from .experts import check_local, receptive_radius
from .scopes import SCOPES, Scope, Shape


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

    def sizes(self, shapes):
        return [
            shape[0] * rows * columns for shape in shapes
            for rows, columns in [self._divided(shape)]
        ]

    def locate(self, shapes, inputs, entries, centres, items):
        length = torch.tensor([s[-2:] for s in shapes])[inputs]  # (n, 2)
        number = torch.tensor([self._divided(s) for s in shapes])[inputs]
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

    def _divided(self, shape: Shape) -> Tuple[int, int]:
        """Rows and columns of patches."""
        return tuple(min(self.grid, n) for n in shape[-2:])

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
