"""Scopes: what one decision of the gate covers.

A scope turns the L inputs of a layer into N samples and back. It says what the
gate sees, what the experts are run on, how their outputs make up the inputs'
shapes again, and which sample a place belongs to. *Pieces* are what the
experts are run on: one tensor with n_l rows for each input, or one for all of
them where they are rows. Samples are numbered input by input, and within an
input entry by entry, where an entry is a picture or a region, the first axis A
of an input.

Per image and level (Pavlitska et al. 2022, section III-D) is the default; per
row, of a fully connected layer or a decoder, is what MoE layers of
transformers do, and per position what V-MoE does with the tokens of a picture
(Riquelme et al. 2021, arXiv 2106.05974). Patches are in ``patch_scope``.
"""
from typing import Callable, List, Sequence, Tuple

import torch
from torch import Tensor, nn

from .checks import fail
from .experts import check_pointwise
from .registry import Registry

Levels = Sequence[Tensor]
#: Shape of an input without its channels: (A, H, W), (A,) or (A, T).
Shape = Tuple[int, ...]


class Scope:
    """One decision per entry and input; other scopes override what differs.

    Attributes:
        repeatable: Whether a layer may be called level by level.
        rows: Whether inputs have their channels on the last axis.
        sees_rows: Whether the gate and the experts see rows (n, C) rather
            than maps.
        of_one_input: Whether a decision is about one of the L inputs only.
    """
    repeatable = True
    of_one_input = True
    rows = False
    sees_rows = False

    def fit(self, expert: nn.Module) -> None:
        """Look at an expert before the first use.

        Raises:
            ValueError: It cannot be run on the pieces of this scope.
        """

    def check(self, levels: Levels, channels: int) -> None:
        """Look at the inputs of a call.

        Raises:
            ValueError: They are no maps (A, C, H, W), or rows (..., C) for a
                scope of rows, or have another number of channels.
        """
        for x in levels:
            if x.dim() < 2 or not self.rows and x.dim() != 4:
                fail('scope', self, 'one that takes features of the shape '
                     f'{tuple(x.shape)}: this one takes ' + (
                         '(n, C) or (B, T, C)' if self.rows else
                         "(B, C, H, W), and dict(type='RowScope') takes "
                         '(n, C) or (B, T, C)'))
            axis = -1 if self.rows else 1
            if x.shape[axis] != channels:
                fail('in_channels', channels,
                     f'{x.shape[axis]}, what axis {axis} of features of the '
                     f'shape {tuple(x.shape)} has')

    def shapes(self, levels: Levels) -> Tuple[Shape, ...]:
        """The shapes of the inputs, without their channels."""
        return tuple(
            tuple(x.shape[:-1] if self.rows else x.shape[:1] + x.shape[2:])
            for x in levels)

    def lay_out(self, levels: Levels) -> Levels:
        """The inputs as :meth:`decide` and :meth:`cut` take them."""
        return levels

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
    of_one_input = False

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


class _OneByOne(Scope):
    """Each row of one table with all inputs is a sample of its own."""
    sees_rows = True

    def decide(self, look, levels):
        return look(levels[0])

    def sizes(self, shapes):
        return [torch.Size(shape).numel() for shape in shapes]

    def spread(self, rows, shapes):
        return [rows]

    def total(self, maps):
        return torch.cat([m.flatten() for m in maps])

    def _apart(self, rows: Tensor, shapes: Sequence[Shape]) -> List[Tensor]:
        """The table -> that of each input. Unsafe if the whole was used, too;
        so whoever gets them may work in place, as an activation does."""
        return list(rows.unsafe_split_with_sizes(self.sizes(shapes)))


@SCOPES.register
class RowScope(_OneByOne):
    """Each row is a sample of its own: of (n, C) rows, or (B, T, C) tokens.

    For fully connected layers and feed-forward networks, where a row is a
    region of a second stage or a query of a decoder.
    """
    rows = True

    def lay_out(self, levels):
        return [_one([x.flatten(0, -2) for x in levels])]

    def join(self, pieces, shapes):
        return [
            y.unflatten(0, shape)
            for y, shape in zip(self._apart(pieces[0], shapes), shapes)
        ]

    def locate(self, shapes, inputs, entries, centres, items):
        tokens = torch.tensor([torch.Size(s[1:]).numel() for s in shapes])
        has_tokens = torch.tensor([len(s) > 1 for s in shapes])[inputs]
        tokens = tokens[inputs]
        token = items.where(has_tokens, torch.zeros_like(items))
        found = self._starts(shapes)[inputs] + entries * tokens + token
        return found.where((token >= 0) & (token < tokens),
                           torch.full_like(found, -1))


@SCOPES.register
class PositionScope(_OneByOne):
    """Each position of each level is a sample of its own: N = sum B H_l W_l.

    For experts that look at no neighbour: feed-forward networks and 1x1
    convolutions. The gate sees the features of the position.
    """

    def __init__(self) -> None:
        self.of_maps = False

    def fit(self, expert):
        check_pointwise(expert, 'scope=PositionScope')
        first = next((m for m in expert.modules()
                      if isinstance(m, (nn.Conv2d, nn.Linear))), None)
        self.of_maps = isinstance(first, nn.Conv2d)

    def lay_out(self, levels):
        # Maps that are channels_last are such rows already.
        return [_one([x.movedim(1, -1).flatten(0, -2) for x in levels])]

    def cut(self, levels):
        # A convolution takes a row as a map of one position.
        return [x[..., None, None] if self.of_maps else x for x in levels]

    def join(self, pieces, shapes):
        rows = self._apart(pieces[0].flatten(1), shapes)
        # The last axis by its number: ONNX's older exporter knows no -1 here.
        return [
            y.unflatten(0, shape).movedim(len(shape), 1)
            for y, shape in zip(rows, shapes)
        ]

    def locate(self, shapes, inputs, entries, centres, items):
        size = torch.tensor([s[-2:] for s in shapes])[inputs]  # (n, 2)
        row, column = (centres * size).long().minimum(size - 1).unbind(1)
        return (self._starts(shapes)[inputs] + entries * size.prod(1) +
                row * size[:, 1] + column)


def _one(tables: Sequence[Tensor]) -> Tensor:
    """Tables (n, C) as one; without a copy if there is only one."""
    return tables[0] if len(tables) == 1 else torch.cat(list(tables))
