"""Do experts know objects, and what does it bring: tables over arms and seeds.

    python benchmarks/objects.py bccd --seeds 0 1 2 3 4
    python benchmarks/objects.py bccd --table

Each arm is a config and what differs from it. A run is a training
(tools/train.py), and for arms with a gate the report of its checkpoint, with
interventions. Runs that are in ``benchmarks/results/`` are not made again, and
a training that was cut off is resumed, so that the study goes on where it
stopped; a result is a line of JSON, written as soon as it is known. Two runs at
a time, with a thread each.

A run takes 7 to 14 minutes with ``bccd`` (RetinaNet-R18 or Faster R-CNN-R18, 12
epochs), 9 to 20 with ``shapes`` (the same, 6 epochs), and 20 to 45 with
``domains`` (YOLOX-nano, or Faster R-CNN with a MobileNetV2, 6 epochs).
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

from objects_tables import SIZES, tables

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / 'benchmarks' / 'results'
HEAD = 'model.bbox_head.moe'
#: The only entry of ``experts``.
ONLY = 'model.experts.0'
#: The seven real domains.
DOMAINS = ('aquarium', 'hituav', 'deeppcb', 'tables', 'cards', 'coco', 'bccd')


class Arm(NamedTuple):
    """A config, what is changed in it, and whether a gate decides."""
    config: str
    options: Sequence[str] = ()
    gate: bool = True


def unconstrained(moe: str) -> Sequence[str]:
    """Options without balance."""
    return f'{moe}.soft_constraint=None', f'{moe}.balance_weight=sample'


def random_gate(moe: str) -> Sequence[str]:
    """Options of a gate that is drawn at random and never trained."""
    return f'{moe}.gate.type=RandomGate', *unconstrained(moe)


def loss_free(moe: str, balances: str) -> Sequence[str]:
    """Options of a balance without a loss."""
    hard = f'{moe}.hard_constraint'
    return (f'{moe}.soft_constraint=None', f'{hard}.type=LossFreeBias',
            f'{hard}.rate=0.01', f'{hard}.balances={balances}')


def arms(data: str) -> Dict[str, Arm]:
    """By name, those of a data set."""
    return _domains() if data == 'domains' else _objects(data)


def _objects(data: str) -> Dict[str, Arm]:
    positions = f'configs/positions/retinanet_moe_positions_{data}.py'
    regions = f'configs/faster_rcnn/faster-rcnn_moe_r18_fpn_{data}.py'
    patches = (f'{HEAD}.scope.type=PatchScope',
               'model.bbox_head.block.expert=conv')
    return {
        'dense': Arm(f'configs/retinanet_fpn_{data}.py', gate=False),
        # one expert as wide as the two that are active
        'wider dense': Arm(positions, (
            f'{HEAD}.num_experts=1', f'{HEAD}.top_k=1',
            'model.bbox_head.block.hidden_channels=128', *unconstrained(HEAD)),
            gate=False),
        'level': Arm(f'configs/retinanet_moe_fpn_{data}.py'),
        'position': Arm(positions),
        'position, random gate': Arm(positions, random_gate(HEAD)),
        # is it the balance that a learned gate has beyond a random one?
        'position, balanced random gate': Arm(positions, (
            f'{HEAD}.gate.type=RandomGate', *loss_free(HEAD, 'importance'))),
        # why does a random gate tell as much? no balance; a faster gate
        'position, unconstrained': Arm(positions, unconstrained(HEAD)),
        'position, faster gate': Arm(positions, (
            'optim_wrapper.paramwise_cfg.custom_keys.gate.lr_mult=10', )),
        'position, k-means': Arm(
            f'configs/positions/retinanet_moe_kmeans_{data}.py'),
        'position, equal gate': Arm(positions, (
            f'{HEAD}.gate.type=EqualGate', *unconstrained(HEAD)), gate=False),
        # one of the two active experts is the shared one
        'position, shared expert': Arm(positions, (
            f'{HEAD}.top_k=1', f'{HEAD}.shared_expert=True')),
        'position, loss-free': Arm(positions, loss_free(HEAD, 'load')),
        'patch': Arm(positions, patches),
        'patch, random gate': Arm(positions, (*patches, *random_gate(HEAD))),
        'regions, dense': Arm(
            f'configs/faster_rcnn/faster-rcnn_r18_fpn_{data}.py', gate=False),
        'regions': Arm(regions),
        'regions, random gate': Arm(regions, random_gate(ONLY)),
        'regions, balanced random gate': Arm(regions, (
            f'{ONLY}.gate.type=RandomGate', *loss_free(ONLY, 'importance'))),
        # most regions are background, over which the loss balances, too
        'regions, unconstrained': Arm(regions, unconstrained(ONLY)),
        'regions, foreground': Arm(
            regions, (f'{ONLY}.balance_weight=foreground', )),
    }


def _domains() -> Dict[str, Arm]:
    name = 'configs/domains/yolox_{}nano_domains.py'
    level, position = name.format('moe_'), name.format('moe_positions_')

    def hard(kind: str) -> Sequence[str]:
        return (f'{ONLY}.soft_constraint=None',
                f'{ONLY}.hard_constraint.type={kind}')

    return {
        'dense': Arm(name.format(''), gate=False),
        # one expert as wide as the two that are active
        'wider dense': Arm(position, (
            f'{ONLY}.num_experts=1', f'{ONLY}.top_k=1',
            f'{ONLY}.hidden_channels=288', *unconstrained(ONLY)), gate=False),
        'level': Arm(level),
        'position': Arm(position),
        # experts that start as what was trained on COCO
        'towers': Arm(name.format('moe_towers_')),
        'patch': Arm(level, (f'{ONLY}.scope.type=PatchScope', )),
        'level, random gate': Arm(level, random_gate(ONLY)),
        'position, random gate': Arm(position, random_gate(ONLY)),
        'level, unconstrained': Arm(level, unconstrained(ONLY)),
        'level, importance': Arm(
            level, (f'{ONLY}.soft_constraint.type=ImportanceLoss', )),
        'level, relative': Arm(level, hard('RelativeImportance')),
        'level, mean': Arm(level, hard('MeanImportance')),
        'level, assigned': Arm(name.format('moe_assigned_')),
        'level, grey': Arm(name.format('moe_grey_')),
        **_domain_regions()
    }


def _domain_regions() -> Dict[str, Arm]:
    name = 'configs/faster_rcnn/faster-rcnn_{}mobilenet-v2_fpn_domains.py'
    regions = name.format('moe_')
    assigned = {f'{ONLY}.soft_constraint.experts.{domain}': expert
                for expert, domain in enumerate(DOMAINS)}
    return {
        'regions, dense': Arm(name.format(''), gate=False),
        # As many operations as the mixture of two experts: 3136 inputs, twice
        # 256 x 256 weights, 536 outputs.
        'regions, wider dense': Arm(name.format(''), (
            'model.roi_head.bbox_head.fc_out_channels=272', ), gate=False),
        'regions': Arm(regions),
        'regions, balanced random gate': Arm(regions, (
            f'{ONLY}.gate.type=RandomGate', *loss_free(ONLY, 'importance'))),
        'regions, random gate': Arm(regions, random_gate(ONLY)),
        'regions, unconstrained': Arm(regions, unconstrained(ONLY)),
        'regions, assigned': Arm(regions, (
            f'{ONLY}.soft_constraint.type=DatasetLoss',
            f'{ONLY}.soft_constraint.weight=0.1',
            *(f'{key}={expert}' for key, expert in assigned.items()))),
    }


def run(data: str, name: str, seed: int, work_dirs: Path) -> None:
    """Train, report, and add the line of results."""
    arm = arms(data)[name]
    work = work_dirs / f'{data}_{name.replace(", ", "_").replace(" ", "-")}' / (
        f'seed{seed}')
    options = ['--cfg-options', f'randomness.seed={seed}', *arm.options]
    commit = _begun(work, '\n'.join([arm.config, *options]))
    trained = work / 'trained'
    if not trained.exists():
        _call(work, 'tools/train.py', arm.config, '--work-dir', str(work),
              '--resume', *options)
        trained.touch()
    checkpoint = (work / 'last_checkpoint').read_text().strip()
    line = dict(arm=name, seed=seed, commit=commit, ap=_ap(work), layers={})
    if arm.gate:
        line['report_commit'] = _commit()
        _call(work, 'tools/analysis_tools/expert_report.py', arm.config,
              checkpoint, '--work-dir', str(work), '--pictures', '0',
              '--embedding', 'pca', *_interventions(data), *options)
        line['layers'] = summary(
            json.loads((work / 'report.json').read_text()))
    # Unbuffered: a line is written at once, and not into that of another run.
    with (RESULTS / f'{data}.jsonl').open('ab', buffering=0) as results:
        results.write(json.dumps(_short(line)).encode() + b'\n')


def _begun(work: Path, arm: str) -> str:
    """Say what is trained in a folder, so that nothing else goes on there;
    the commit at which it began."""
    mark = work / 'arm'
    work.mkdir(parents=True, exist_ok=True)
    if not mark.exists():
        mark.write_text(f'{_commit()}\n{arm}')
    commit, there = mark.read_text().split('\n', 1)
    if there != arm:
        raise ValueError(f'{work} has a training of another arm: {there}')
    return commit


def _interventions(data: str) -> Sequence[str]:
    # 871 pictures: what takes most of the time is left out
    return (('--interventions', 'drop', 'random_routing')
            if data == 'domains' else ())


def summary(report: dict) -> Dict[str, dict]:
    """By layer, what the tables need of a report."""
    return {
        layer: dict(
            input_dependence=table['input_dependence']['all']['bits'],
            living_experts=table['living_experts'],
            importance_cv=table['importance_cv'],
            specialisation=table['specialisation'],
            functions=table['functions'],
            without=[{
                **{size: row['difference'][size] for size in SIZES},
                **row['difference_by']['class'],
                **row['difference_by'].get('domain', {})
            } for row in report['interventions']
                if (row['layer'], row['kind']) == (layer, 'drop')])
        for layer, table in report['layers'].items()
    }


def _short(x):
    """Four digits, and [value, low, high] for a figure with its interval:
    hundreds of them are in a line."""
    if isinstance(x, float):
        return float(f'{x:.4g}')
    if isinstance(x, dict) and set(x) == {'value', 'interval'}:
        low_high = x['interval'] or dict(low=None, high=None)
        return _short([x['value'], low_high['low'], low_high['high']])
    if isinstance(x, dict):
        return {key: _short(value) for key, value in x.items()}
    return [_short(value) for value in x] if isinstance(x, list) else x


def _call(work: Path, *command: str) -> None:
    work.mkdir(parents=True, exist_ok=True)
    with (work / 'output.log').open('a') as log:
        subprocess.run(
            [sys.executable, *command], cwd=ROOT, check=True, stdout=log,
            stderr=subprocess.STDOUT,
            env=dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg'))


def _ap(work: Path) -> Dict[str, float]:
    """AP of the last validation in the log of the training."""
    logs = sorted(work.glob('*/vis_data/scalars.json'))
    rows = [json.loads(line) for log in logs for line in log.open()]
    last = [row for row in rows if 'coco/bbox_mAP' in row][-1]
    return {
        key.removeprefix('coco/'): value for key, value in last.items()
        if 'bbox_mAP' in key and isinstance(value, float)
    }


def _commit() -> str:
    """The commit of the code, ``-dirty`` if files of it are changed."""
    return subprocess.run(
        ['git', 'describe', '--always', '--dirty', '--exclude=*'],
        cwd=ROOT, capture_output=True, text=True).stdout.strip()


def known(data: str) -> List[dict]:
    """The results so far."""
    path = RESULTS / f'{data}.jsonl'
    return [json.loads(x) for x in path.open()] if path.exists() else []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', choices=('bccd', 'shapes', 'domains'))
    parser.add_argument('--arms', nargs='+', help='all if not given')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--work-dirs', type=Path,
                        default=ROOT / 'work_dirs' / 'objects')
    parser.add_argument('--jobs', type=int, default=2)
    parser.add_argument('--table', action='store_true', help='print it only')
    args = parser.parse_args()
    unknown = set(args.arms or ()) - set(arms(args.data))
    if unknown:
        parser.error(f'--arms: {", ".join(unknown)}: allowed are ' +
                     ', '.join(arms(args.data)))
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
        failed = [f'{name}, seed {seed}: {one.exception()}'
                  for (seed, name), one in zip(wanted, runs)
                  if one.exception()]
        if failed:
            sys.exit('\n'.join(failed))
    for table in tables(known(args.data), list(arms(args.data))):
        print(f'\n{table}')


if __name__ == '__main__':
    main()
