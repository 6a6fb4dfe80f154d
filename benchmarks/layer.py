"""What a MoE layer costs: ratios to a dense one, and to other ways to do it.

    python benchmarks/layer.py [--sweep | --levels] [--bf16]

Forward and backward pass in training, medians of interleaved runs. Eight
pictures of 320 pixels, levels P3 to P7, 256 channels, unless said otherwise.

- tower: the classification subnet of RetinaNet, four convolutions with ReLU
  and the predictor of 80 classes and 9 anchors.
- conv: one 3x3 convolution; block: a residual block of two.
- dense: one expert without a gate. all experts: every expert on every sample.
- masked loop: written as the paper's code does it, with a tensor of zeros
  for every expert, filled where it is selected, and a weighted sum.

The gate is as it is initialised, so that pictures go to the experts as they
will at the start of a training (mostly all of a level to the same K); spread:
each level goes to all experts, which is the worst case.

The floor is the ratio of the arithmetic: K for towers and blocks, and 1 for
convolutions, because K of them can be merged into one.
"""
import argparse
from functools import partial
from itertools import product
from typing import Callable, List, Optional, Sequence

import torch
from measure import keep_memory, machine, medians, peak_memory
from terminaltables import GithubFlavoredMarkdownTable
from torch import Tensor, nn

from mmdet_moe.layers import MoELayer, dense_dispatch

SIZES = (40, 20, 10, 5, 3)
CHANNELS, PICTURES = 256, 8


def conv(channels: int = CHANNELS) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=1)


class Block(nn.Module):

    def __init__(self, channels: int = CHANNELS) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels), nn.ReLU(), conv(channels))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.body(x)).relu()


def tower(channels: int = CHANNELS) -> nn.Module:
    layers = [m for _ in range(4) for m in (conv(channels), nn.ReLU())]
    return nn.Sequential(*layers, nn.Conv2d(channels, 720, 3, padding=1))


EXPERTS = dict(tower=tower, conv=conv, block=Block)


def masked_loop(pieces: Sequence[Tensor], weights: Sequence[Tensor],
                experts: Sequence[nn.Module]) -> List[Tensor]:
    """A dispatch that holds what all experts return at once."""
    mixtures = []
    for x, w in zip(pieces, weights):
        outputs = None
        for e, expert in enumerate(experts):
            mine = w[:, e] > 0
            if mine.any():
                y = expert(x[mine])
                if outputs is None:
                    outputs = y.new_zeros(len(experts), len(x), *y.shape[1:])
                outputs[e, mine] = y
        mixtures.append((w.t()[..., None, None, None] * outputs).sum(dim=0))
    return mixtures


class Dense(nn.Module):
    """A layer without experts, on a pyramid."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, levels: Sequence[Tensor]) -> List[Tensor]:
        return [self.module(x) for x in levels]


def layer(kind: str, experts: int = 4, top_k: int = 2, *,
          channels: int = CHANNELS, dispatch: Optional[Callable] = None,
          spread: bool = False) -> nn.Module:
    torch.manual_seed(0)
    moe = MoELayer(partial(EXPERTS[kind], channels), channels,
                   num_experts=experts, top_k=top_k)
    if spread:  # the features are noise, their means are small
        nn.init.normal_(moe.gate.fc_weight)
    if dispatch is not None:
        moe.dispatch = dispatch
    return moe


def pyramid(channels: int = CHANNELS, sizes: Sequence[int] = SIZES,
            pictures: int = PICTURES) -> List[Tensor]:
    torch.manual_seed(1)
    return [torch.randn(pictures, channels, s, s) for s in sizes]


class Step:
    """Forward and backward pass, for features that have a gradient."""

    def __init__(self, module: nn.Module, levels: Sequence[Tensor], *,
                 device: str, dtype: torch.dtype) -> None:
        self.module = module.to(device)
        self.levels = [x.to(device).requires_grad_() for x in levels]
        self.autocast = partial(torch.autocast, device, dtype,
                                enabled=dtype != torch.float32)

    def __call__(self) -> None:
        for p in (*self.module.parameters(), *self.levels):
            p.grad = None
        with self.autocast():
            outputs = self.module(self.levels)
        torch.autograd.backward(outputs, [torch.ones_like(y) for y in outputs])


class Route(Step):
    """The decision alone, forward and backward."""

    def __call__(self) -> None:
        for p in (*self.module.gate.parameters(), *self.levels):
            p.grad = None
        self.module.decide(self.levels).weights.square().sum().backward()


def memory_step(kind: str, experts: int, dispatch, device: str,
                dtype: torch.dtype) -> Step:
    return Step(
        layer(kind, experts, dispatch=dispatch, spread=True), pyramid(),
        device=device, dtype=dtype)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--bf16', action='store_true', help='autocast')
    parser.add_argument(
        '--sweep', action='store_true',
        help='all kinds of experts, E, K, pictures and sizes; 128 channels')
    parser.add_argument(
        '--levels', action='store_true', help='each level on its own')
    return parser.parse_args()


def required(args, options: dict) -> list:
    """Rows: what, floor, at most or at least, measured."""
    step = partial(Step, **options)
    levels = pyramid()
    towers = medians({
        'dense': step(Dense(tower()), levels),
        'ours': step(layer('tower'), levels),
        'spread': step(layer('tower', spread=True), levels),
        'router': Route(layer('tower'), levels, **options),
    }, args.repeats)
    # By themselves: 64 towers take 2 GB, which slows what runs beside them.
    wide = medians({
        experts: step(layer('tower', experts, spread=True), levels)
        for experts in (4, 64)
    }, args.repeats)
    convs = medians({
        'dense': step(Dense(conv()), levels),
        'ours': step(layer('conv'), levels),
        'spread': step(layer('conv', spread=True), levels),
        'masked': step(
            layer('conv', spread=True, dispatch=masked_loop), levels),
    }, args.repeats)
    memory = [
        peak_memory(memory_step, 'tower', 16, dispatch, *options.values())
        for dispatch in (masked_loop, None)
    ]
    return [
        ('tower, E=4 K=2, over dense', '2.0', 'at most 2.05',
         towers['ours'] / towers['dense']),
        ('the same, spread', '2.0', '', towers['spread'] / towers['dense']),
        ('tower, E=64 K=2, over E=4, both spread', '1.0', 'at most 1.15',
         wide[64] / wide[4]),
        ('conv, E=4 K=2, over dense', '1.0', 'at most 1.20',
         convs['ours'] / convs['dense']),
        ('the same, spread', '1.0', '', convs['spread'] / convs['dense']),
        ('conv, masked loop over ours, both spread', '', 'at least 1.8',
         convs['masked'] / convs['spread']),
        ('peak memory, tower, E=16 K=2, masked loop over ours, both spread',
         '',
         'at least 2.0', memory[0] / memory[1]),
        ('router, share of a tower layer', '0', 'at most 0.02',
         towers['router'] / towers['ours']),
    ]


#: Experts, K, pictures, sizes of the maps.
SWEEP = [
    *((experts, top_k, 8, (20, 10))
      for experts, top_k in ((2, 1), (4, 1), (4, 2), (8, 2), (8, 8), (16, 2),
                             (64, 2), (64, 8))),
    *((4, 2, pictures, (20, 10)) for pictures in (1, 2, 16)),
    *((4, 2, 8, sizes) for sizes in ((40, ), (5, 3))),
]


def compare(kind: str, experts: int, top_k: int, pictures: int,
            sizes: Sequence[int], repeats: int, options: dict) -> list:
    """A case of SWEEP, and its ratios to the dense layer."""
    levels = pyramid(128, sizes, pictures)
    ways = dict(ours=None, masked=masked_loop, all=dense_dispatch)
    steps = {
        name: Step(
            layer(kind, experts, top_k, channels=128, spread=True,
                  dispatch=dispatch), levels, **options)
        for name, dispatch in ways.items()
    }
    dense = Step(Dense(EXPERTS[kind](128)), levels, **options)
    t = medians(dict(steps, dense=dense), repeats)
    return [kind, experts, top_k, pictures, ' '.join(map(str, sizes)),
            *(t[name] / t['dense'] for name in ways)]


def by_level(kind: str, size: int, repeats: int, options: dict) -> list:
    """A level on its own: how many experts are busy, and milliseconds."""
    levels, moe = pyramid(sizes=(size, )), layer(kind)
    t = medians(
        dict(
            dense=Step(Dense(EXPERTS[kind]()), levels, **options),
            ours=Step(moe, levels, **options)), repeats)
    busy = moe.decide(levels).routing.experts.unique().numel()
    return [kind, f'{size} x {size}', busy, f'{1e3 * t["dense"]:.1f}',
            f'{1e3 * t["ours"]:.1f}', t['ours'] / t['dense']]


def main():
    args = parse_args()
    keep_memory()
    options = dict(device='cuda' if torch.cuda.is_available() else 'cpu',
                   dtype=torch.bfloat16 if args.bf16 else torch.float32)
    if args.sweep:
        head = ['expert', 'E', 'K', 'pictures', 'maps', 'ours over dense',
                'masked loop over dense', 'all experts over dense']
        rows = [
            compare(kind, *case, args.repeats, options)
            for kind, case in product(EXPERTS, SWEEP)
        ]
    elif args.levels:
        head = ['expert', 'map', 'busy experts', 'dense, ms', 'ours, ms',
                'ratio']
        rows = [
            by_level(kind, size, args.repeats, options)
            for kind, size in product(('tower', 'conv'), SIZES)
        ]
    else:
        head = ['what', 'floor', 'allowed', 'measured']
        rows = required(args, options)
    print(f'\n{machine()}, {options["dtype"]}, medians of {args.repeats}\n')
    print(GithubFlavoredMarkdownTable([head] + [
        [f'{x:.3f}' if isinstance(x, float) else x for x in row]
        for row in rows
    ]).table)


if __name__ == '__main__':
    main()
