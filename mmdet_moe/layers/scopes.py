"""Scopes: what one decision of the gate covers.

A scope turns L feature maps (B, C, H_l, W_l) into N samples and back. It says
what the gate looks at, what the experts are run on, and how their outputs make
up the maps again. *Pieces* are what the experts are run on: one tensor
(n_l, C, h_l, w_l) for each level.

Per image and level (Pavlitska et al. 2022, section III-D) is the default; per
patch is the formulation of arXiv 2604.13761.
"""
from typing import Callable, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from .checks import check_int
from .experts import check_local, receptive_radius
from .registry import Registry

Levels = Sequence[Tensor]


class Scope:
    """One decision per image and level; other scopes override what differs.

    Attributes:
        repeatable: Whether a layer may be called level by level.
        grid: Rows and columns of decisions that a level has at most.
    """
    repeatable = True
    grid = 1

    def fit(self, expert: nn.Module) -> None:
        """Look at an expert before the first use.

        Raises:
            ValueError: It cannot be run on the pieces of this scope.
        """

    def decide(self, gate: Callable[[Tensor], Tensor],
               levels: Levels) -> Tensor:
        """What a gate, (n, C, h, w) -> (n, E), says of the samples: (N, E)."""
        return torch.cat([gate(x) for x in levels])

    def sizes(self, levels: Levels) -> List[int]:
        """How the N samples divide into the levels of a call."""
        return [len(x) for x in levels]

    def cut(self, levels: Levels) -> List[Tensor]:
        """The pieces that the experts are run on."""
        return list(levels)

    def spread(self, rows: Tensor, levels: Levels) -> List[Tensor]:
        """A row per sample (N, E) -> a row per piece, [(n_l, E)] * L."""
        return list(rows.split(self.sizes(levels)))

    def join(self, pieces: Sequence[Tensor], levels: Levels) -> List[Tensor]:
        """What the experts made of the pieces -> L maps."""
        return list(pieces)

    def total(self, maps: Levels) -> Tensor:
        """Sum of L maps (B, H_l, W_l) over each sample: (N,)."""
        return torch.cat([m.sum(dim=(-2, -1)) for m in maps])

    def grids(self, rows: Tensor, levels: Levels) -> List[Tensor]:
        """A row per sample (N, E) -> where it holds, [(B, gh, gw, E)] * L.

        gh x gw is 1 x 1 where it holds for the whole level, else H_l x W_l.
        """
        return [r[:, None, None] for r in self.spread(rows, levels)]

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


SCOPES = Registry(Scope)


@SCOPES.register
class LevelScope(Scope):
    """One decision per image and pyramid level: N = L * B, level by level."""


@SCOPES.register
class ImageScope(Scope):
    """One decision per image, for all levels of a call: N = B.

    The logits are the mean over the levels; for GAP-FC that is the fully
    connected layer on the mean of the pooled levels. That mean, too, is what
    the noise is scaled by.
    """
    repeatable = False

    def decide(self, gate, levels):
        return torch.stack([gate(x) for x in levels]).mean(dim=0)

    def sizes(self, levels):
        return [len(levels[0])]

    def spread(self, rows, levels):
        return [rows] * len(levels)

    def total(self, maps):
        return torch.stack([m.sum(dim=(-2, -1)) for m in maps]).sum(dim=0)


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

    def decide(self, gate, levels):
        decisions = []
        for x in levels:
            rows, columns = self._axes(x)
            decisions.append(
                torch.stack([
                    gate(x[..., top:bottom, left:right])
                    for top, bottom in rows.tiles
                    for left, right in columns.tiles
                ], dim=1).flatten(0, 1))
        return torch.cat(decisions)

    def sizes(self, levels):
        return [
            len(x) * len(rows.tiles) * len(columns.tiles) for x in levels
            for rows, columns in [self._axes(x)]
        ]

    def cut(self, levels):
        pieces = []
        for x in levels:
            rows, columns = self._axes(x)
            pieces.append(
                torch.stack([
                    x[..., y:y + rows.window, z:z + columns.window]
                    for y in rows.starts for z in columns.starts
                ], dim=1).flatten(0, 1))
        return pieces

    def join(self, pieces, levels):
        maps = []
        for piece, x in zip(pieces, levels):
            rows, columns = self._axes(x)
            windows = iter(piece.unflatten(0, (len(x), -1)).unbind(1))
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

    def grids(self, rows, levels):
        grids = []
        for r, x in zip(self.spread(rows, levels), levels):
            vertical, horizontal = self._axes(x)
            tiles = r.unflatten(
                0, (len(x), len(vertical.tiles), len(horizontal.tiles)))
            grids.append(
                tiles.repeat_interleave(vertical.lengths(r), dim=1)
                .repeat_interleave(horizontal.lengths(r), dim=2))
        return grids

    def _axes(self, x: Tensor) -> Tuple['_Axis', '_Axis']:
        return (_Axis(x.shape[-2], self.grid, self.halo),
                _Axis(x.shape[-1], self.grid, self.halo))

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

    def lengths(self, like: Tensor) -> Tensor:
        return torch.tensor([end - start for start, end in self.tiles],
                            device=like.device)
