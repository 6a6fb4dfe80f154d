"""Where merged convolutions pay: K gathered ones, and one with merged kernels.

    python benchmarks/merging.py

Forward and backward pass of 3x3 convolutions, E=4, K=2, 8 pictures, 256 and
64 channels, for square maps. Merging should be chosen where the last column
is above 1; mmdet_moe/layers/merging.py does so from ``merge_above / (K - 1)``
positions, with a number for each type of device.
"""
from functools import partial

import torch
from layer import Step, layer, pyramid
from measure import keep_memory, machine, medians
from terminaltables import GithubFlavoredMarkdownTable

from mmdet_moe.layers import MoELayer, sparse_dispatch


class Chosen(Step):
    """With merging wherever it is possible, or nowhere."""

    def __init__(self, positions: float, moe: MoELayer, *args,
                 **kwargs) -> None:
        moe.dispatch = partial(
            sparse_dispatch, merge_above=dict.fromkeys(('cpu', 'cuda'),
                                                       positions))
        super().__init__(moe, *args, **kwargs)


def main():
    keep_memory()
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    rows = []
    for channels in (256, 64):
        for size in (3, 5, 7, 10, 20, 40):
            t = medians({
                name: Chosen(
                    positions, layer('conv', channels=channels, spread=True),
                    pyramid(channels, (size, )), device=device,
                    dtype=torch.float32)
                for name, positions in (('gathered', float('inf')),
                                        ('merged', 0))
            }, 15)
            rows.append([channels, f'{size} x {size}'] + [
                f'{1e3 * x:.1f}' for x in t.values()
            ] + [f'{t["gathered"] / t["merged"]:.2f}'])
    print(f'\n{machine()}, medians of 15\n')
    print(GithubFlavoredMarkdownTable(
        [['channels', 'map', 'gathered, ms', 'merged, ms', 'ratio'],
         *rows]).table)


if __name__ == '__main__':
    main()
