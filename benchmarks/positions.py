"""What experts of positions cost: ratios to the arithmetic of the active ones.

    python benchmarks/positions.py [--bf16]

Forward and backward pass in training, medians of interleaved runs. Eight
pictures of 320 pixels, levels P3 to P7, 256 channels; an expert is a
feed-forward network of 256, 256 and 256 channels.

- active: the arithmetic of the K active experts, as one dense feed-forward
  network that is K times as wide, on rows that are there already.
- all experts: every expert on every position.

The gate is drawn so that positions go to all experts.
"""
import argparse
from typing import Sequence

import torch
from layer import CHANNELS, Step, pyramid
from measure import keep_memory, machine, medians, peak_memory
from terminaltables import GithubFlavoredMarkdownTable
from torch import Tensor, nn

from mmdet_moe.layers import FeedForward, MoELayer, dense_dispatch
from mmdet_moe.layers.grouped import grouped_dispatch

TOP_K = 2


def positions(experts: int = 8, dispatch=None) -> nn.Module:
    torch.manual_seed(0)
    layer = MoELayer(
        lambda: FeedForward(CHANNELS), CHANNELS, num_experts=experts,
        top_k=TOP_K, scope=dict(type='PositionScope'))
    if dispatch is not None:
        layer.dispatch = dispatch
    return layer


class Active(nn.Module):
    """As much arithmetic as the active experts, without a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.network = FeedForward(CHANNELS, TOP_K * CHANNELS)

    def forward(self, rows: Sequence[Tensor]) -> Sequence[Tensor]:
        return [self.network(x) for x in rows]


def rows() -> list:
    return [torch.cat([x.movedim(1, -1).flatten(0, -2) for x in pyramid()])]


def moe_step(device: str, dtype: torch.dtype) -> Step:
    return Step(positions(), pyramid(), device=device, dtype=dtype)


def dense_step(device: str, dtype: torch.dtype) -> Step:
    return Step(Active(), rows(), device=device, dtype=dtype)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--bf16', action='store_true', help='autocast')
    args = parser.parse_args()
    keep_memory()
    options = dict(device='cuda' if torch.cuda.is_available() else 'cpu',
                   dtype=torch.bfloat16 if args.bf16 else torch.float32)
    steps = dict(
        active=dense_step(**options),
        ours=moe_step(**options),
        wide=Step(positions(64), pyramid(), **options),
        grouped=Step(positions(dispatch=grouped_dispatch), pyramid(),
                     **options),
        all=Step(positions(dispatch=dense_dispatch), pyramid(), **options))
    time = medians(steps, args.repeats)
    memory = [peak_memory(prepare, *options.values())
              for prepare in (moe_step, dense_step)]
    table = [
        ('E=8 K=2, over the arithmetic of the active experts', '1.0',
         'at most 1.5', time['ours'] / time['active']),
        ('E=8 K=2, over all experts', '0.25', 'at most 0.35',
         time['ours'] / time['all']),
        ('E=64 K=2, over E=8', '1.0', 'at most 1.2',
         time['wide'] / time['ours']),
        ('the same experts as grouped products, over ours', '', '',
         time['grouped'] / time['ours']),
        ('peak memory, over one network as wide as the active experts', '',
         'at most 1.3', memory[0] / memory[1]),
    ]
    print(f'\n{machine()}, {options["dtype"]}, medians of {args.repeats}; '
          f'active {1e3 * time["active"]:.0f} ms\n')
    print(GithubFlavoredMarkdownTable(
        [['what', 'floor', 'allowed', 'measured']] +
        [[*row[:3], f'{row[3]:.3f}'] for row in table]).table)


if __name__ == '__main__':
    main()
