"""Do experts know objects, and what does it bring: tables over arms and seeds.

    python benchmarks/objects.py bccd --seeds 0 1 2 3 4 --work-dirs DIR
    python benchmarks/objects.py bccd --table

Each arm is a config and what differs from it. A run is a training
(tools/train.py), and for arms with a gate the report of its checkpoint
(without interventions). Runs that are in ``benchmarks/results/`` are not made
again, so that the study goes on where it stopped; a result is a line of JSON,
written as soon as it is known. Two runs at a time, with a thread each.

BCCD: RetinaNet-R18, 12 epochs, about 8 minutes a run.
"""
import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import numpy as np
from terminaltables import GithubFlavoredMarkdownTable

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
MOE = 'model.bbox_head.moe'
UNCONSTRAINED = (f'{MOE}.soft_constraint=None',
                 f'{MOE}.balance_weight=sample')


class Arm(NamedTuple):
    """A config, what is changed in it, and whether a gate decides."""
    config: str
    options: Sequence[str] = ()
    gate: bool = True


def arms(data: str) -> Dict[str, Arm]:
    positions = f'configs/positions/retinanet_moe_positions_{data}.py'
    return {
        'dense': Arm(f'configs/retinanet_fpn_{data}.py', gate=False),
        # one expert as wide as the two that are active
        'wider dense': Arm(positions, (
            f'{MOE}.num_experts=1', f'{MOE}.top_k=1',
            'model.bbox_head.block.hidden_channels=128', *UNCONSTRAINED),
            gate=False),
        'level': Arm(f'configs/retinanet_moe_fpn_{data}.py'),
        'position': Arm(positions),
        'position, random gate': Arm(positions, (
            f'{MOE}.gate.type=RandomGate', *UNCONSTRAINED)),
        'position, k-means': Arm(
            f'configs/positions/retinanet_moe_kmeans_{data}.py'),
        'position, equal gate': Arm(positions, (
            f'{MOE}.gate.type=EqualGate', *UNCONSTRAINED), gate=False),
        # one of the two active experts is the shared one
        'position, shared expert': Arm(positions, (
            f'{MOE}.top_k=1', f'{MOE}.shared_expert=True')),
        'position, loss-free': Arm(positions, (
            f'{MOE}.soft_constraint=None',
            f'{MOE}.hard_constraint.type=LossFreeBias',
            f'{MOE}.hard_constraint.rate=0.01')),
    }


def run(data: str, name: str, seed: int, work_dirs: Path) -> None:
    """Train, report, and add the line of results."""
    arm = arms(data)[name]
    work = work_dirs / f'{data}_{name.replace(", ", "_").replace(" ", "-")}' / (
        f'seed{seed}')
    options = ['--cfg-options', f'randomness.seed={seed}',
               'default_hooks.checkpoint.save_optimizer=False',
               'default_hooks.checkpoint.max_keep_ckpts=1', *arm.options]
    _call(work, 'tools/train.py', arm.config, '--work-dir', str(work), *options)
    checkpoint = (work / 'last_checkpoint').read_text().strip()
    layers = {}
    if arm.gate:
        _call(work, 'tools/analysis_tools/expert_report.py', arm.config,
              checkpoint, '--work-dir', str(work), '--no-interventions',
              '--pictures', '0', '--embedding', 'pca', *options)
        report = json.loads((work / 'report.json').read_text())
        layers = {
            layer: dict(
                input_dependence=table['input_dependence'],
                living_experts=table['living_experts'],
                importance_cv=table['importance_cv'],
                specialisation=table['specialisation'])
            for layer, table in report['layers'].items()
        }
    line = dict(arm=name, seed=seed, commit=_commit(), ap=_ap(work),
                layers=layers)
    with (RESULTS / f'{data}.jsonl').open('a') as results:
        results.write(json.dumps(line) + '\n')


def _call(work: Path, *command: str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (work / 'output.log').open('a') as log:
        subprocess.run(
            [sys.executable, *command], cwd=ROOT, check=True, stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg'))


def _ap(work: Path) -> Dict[str, float]:
    """Of the last validation in the log of the training."""
    logs = sorted(work.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for log in logs for line in log.open()]
    last = [row for row in rows if 'coco/bbox_mAP' in row][-1]
    return {k: v for k, v in last.items() if k.startswith('coco/bbox_mAP')
            and isinstance(v, float)}


def _commit() -> str:
    return subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT,
                          capture_output=True, text=True).stdout.strip()


def known(data: str) -> List[dict]:
    """The results so far."""
    path = RESULTS / f'{data}.jsonl'
    return [json.loads(x) for x in path.open()] if path.exists() else []


def told(line: dict, subnet: str, of: str) -> float:
    """Bits that the expert of a subnet's layer tells beyond the level, as a
    part of what there is to tell; NaN without a gate."""
    for layer, table in line['layers'].items():
        for row in table['specialisation']:
            if subnet in layer and row['of'] == of and row['given_level']:
                return row['normalised']
    return float('nan')


def table(data: str) -> str:
    """A row for each arm: means over the seeds ± standard deviations."""
    lines = known(data)
    rows = []
    for name in arms(data):
        mine = [line for line in lines if line['arm'] == name]
        if not mine:
            continue
        figures = [[100 * line['ap']['coco/bbox_mAP'] for line in mine]] + [
            [100 * told(line, subnet, of) for line in mine]
            for subnet, of in product(('cls_', 'reg_'), ('size', 'class'))
        ]
        rows.append([name, str(len(mine))] + [_mean(x) for x in figures])
    head = ['arm', 'seeds', 'AP', 'cls: size, %', 'cls: class, %',
            'reg: size, %', 'reg: class, %']
    return GithubFlavoredMarkdownTable([head, *rows]).table


def _mean(values: Sequence[float]) -> str:
    values = np.array(values)
    if np.isnan(values).any():
        return '-'
    spread = f' ± {values.std(ddof=1):.1f}' if len(values) > 1 else ''
    return f'{values.mean():.1f}{spread}'


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', choices=('bccd', 'shapes'))
    parser.add_argument('--arms', nargs='+', help='all if not given')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--work-dirs', type=Path,
                        default=ROOT / 'work_dirs' / 'objects')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--table', action='store_true', help='print it only')
    args = parser.parse_args()
    if not args.table:
        RESULTS.mkdir(exist_ok=True)
        done = {(x['arm'], x['seed']) for x in known(args.data)}
        wanted = [
            (seed, name) for seed, name in product(
                args.seeds, args.arms or arms(args.data))
            if (name, seed) not in done
        ]
        with ThreadPoolExecutor(args.jobs) as pool:
            runs = [pool.submit(run, args.data, name, seed, args.work_dirs)
                    for seed, name in wanted]
        for (seed, name), one in zip(wanted, runs):
            if one.exception():
                print(f'{name}, seed {seed}: {one.exception()}')
    print(table(args.data))


if __name__ == '__main__':
    main()
