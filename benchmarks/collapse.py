"""What each constraint does against collapse, on a toy problem.

    python benchmarks/collapse.py

Pictures of eight kinds, told by their mean colour; all need the same linear
map of the pixels plus a smaller one of their kind. The gate starts with a
slight preference (0.5) for the first of four experts: it learns the common map
first, is better for all pictures from then on, and gets more and more of them.
In the last table the preference is so strong (4, for two experts) that the
others get nothing from the start.

Shown are the CV of the importance and the living experts (those with a share
above 0): in the last quarter of the training, with noise and masks, and in
evaluation, without them; means over seeds.
"""
import argparse
from statistics import mean

import torch
from terminaltables import GithubFlavoredMarkdownTable
from torch import nn

from mmdet_moe.layers import MoELayer, coefficient_of_variation, living_experts

C, KINDS, EXPERTS = 8, 8, 4
STEPS, BATCH = 400, 64
#: Learning rates of Adam: a gate that is quicker than what it chooses from.
GATE_LR, EXPERT_LR = 5e-2, 3e-3
#: Added to the gate's bias at the start.
SLIGHT, STRONG = (0.5, 0, 0, 0), (4, 4, 0, 0)

ROWS = {
    'none': dict(),
    'importance 0.5': dict(soft_constraint=dict(type='ImportanceLoss')),
    'KL 0.5': dict(soft_constraint=dict(type='KLLoss')),
    'load 0.5, with noise': dict(
        noise=True, soft_constraint=dict(type='LoadLoss')),
    'Switch 0.5': dict(soft_constraint=dict(type='SwitchLoss')),
    'entropy 0.5': dict(soft_constraint=dict(type='EntropyLoss')),
    'relative 0.3': dict(hard_constraint=dict(type='RelativeImportance')),
    'mean 0.1': dict(hard_constraint=dict(type='MeanImportance')),
    'mean 0.01': dict(
        hard_constraint=dict(type='MeanImportance', threshold=0.01)),
    'KL 0.5 and relative 0.3': dict(
        soft_constraint=dict(type='KLLoss'),
        hard_constraint=dict(type='RelativeImportance')),
    'loss-free 0.03, load': dict(
        hard_constraint=dict(type='LossFreeBias', rate=0.03)),
    'loss-free 0.03, importance': dict(
        hard_constraint=dict(
            type='LossFreeBias', rate=0.03, balances='importance')),
    'noise only': dict(noise=True),
    'router z 0.5': dict(soft_constraint=dict(type='RouterZLoss', weight=0.5)),
    'variance 0.5': dict(soft_constraint=dict(type='VarianceLoss')),
}
#: Those that have a gradient, or a mask, with K = 1.
SINGLE = ('none', 'load 0.5, with noise', 'Switch 0.5', 'entropy 0.5',
          'relative 0.3', 'mean 0.1', 'mean 0.01', 'loss-free 0.03, load')


class Toy:
    """The problem: pictures (n, C, 4, 4) and what to make of them."""

    def __init__(self, seed: int) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.colours = 0.3 * self._draw(KINDS, C)
        common, own = self._draw(C, C), self._draw(KINDS, C, C)
        self.maps = (common + 0.1 * own) / C**0.5

    def _draw(self, *shape):
        return torch.randn(*shape, generator=self.random)

    def batch(self, size: int):
        kind = torch.randint(KINDS, (size, ), generator=self.random)
        x = self.colours[kind][:, :, None, None] + self._draw(size, C, 4, 4)
        return x, torch.einsum('noc,nchw->nohw', self.maps[kind], x)


def run(options: dict, top_k: int, start: tuple, seed: int) -> dict:
    torch.manual_seed(seed)
    toy = Toy(seed)
    layer = MoELayer(
        lambda: nn.Conv2d(C, C, 1), C, num_experts=EXPERTS, top_k=top_k,
        **options)
    layer.recording = True
    layer.gate.fc_bias.data += torch.tensor(start)
    router = [p for n, p in layer.named_parameters() if 'experts' not in n]
    optimizer = torch.optim.Adam([
        dict(params=router, lr=GATE_LR),
        dict(params=layer.experts.parameters(), lr=EXPERT_LR)
    ])
    importance, share = torch.zeros(EXPERTS), torch.zeros(EXPERTS)
    for step in range(STEPS):
        x, target = toy.batch(BATCH)
        loss = (layer(x) - target).pow(2).mean()
        summary = layer.collect()
        optimizer.zero_grad()
        (loss + sum(summary.losses.values())).backward()
        optimizer.step()
        layer.step()
        if step >= 3 * STEPS // 4:
            importance += summary.importance
            share += summary.share
    with torch.no_grad():
        x, target = toy.batch(1024)
        error = (layer.eval()(x) - target).pow(2).mean()
        weights = layer.decide([x]).weights
    return dict(
        training=(coefficient_of_variation(importance).item(),
                  living_experts(share)),
        evaluation=(coefficient_of_variation(weights.sum(dim=0)).item(),
                    living_experts((weights > 0).sum(dim=0))),
        error=error.item())


def table(title: str, names, seeds: int, top_k: int = 2,
          start: tuple = SLIGHT) -> str:
    rows = [[
        title, 'CV, training', 'living, training',
        'CV, evaluation', 'living, evaluation', 'squared error'
    ]]
    for name in names:
        results = [
            run(ROWS[name], top_k, start, seed) for seed in range(seeds)
        ]
        row = [name]
        for phase in ('training', 'evaluation'):
            cv, living = zip(*(result[phase] for result in results))
            row += [f'{mean(cv):.2f}', f'{mean(living):.1f} of {EXPERTS}']
        row.append(f'{mean(result["error"] for result in results):.2f}')
        rows.append(row)
    return GithubFlavoredMarkdownTable(rows).table


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--seeds', type=int, default=5)
    args = parser.parse_args()
    print(table('K = 2', ROWS, args.seeds), end='\n\n')
    print(table('K = 1', SINGLE, args.seeds, top_k=1), end='\n\n')
    print(table('K = 2, collapsed at the start', ROWS, args.seeds,
                start=STRONG))


if __name__ == '__main__':
    main()
