"""Test a detector: AP by object size, and which expert does what."""
import argparse
import os

from mmdet.engine.hooks.utils import trigger_visualization_hook
from mmdet.evaluation import DumpDetResults
from mmengine.config import DictAction

from mmdet_moe.launch import build_runner, clear_errors, load_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for the figures')
    parser.add_argument('--out', help='pickle file for all predictions')
    parser.add_argument(
        '--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', help='folder for painted pictures')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds between pictures')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings of the config to override, as key=value')
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm', 'mpi'),
        default='none',
        help='how the processes are started')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: the name must end with .pkl')
    return args


def main():
    args = parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    with clear_errors():
        cfg = load_config(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            launcher=args.launcher)
        cfg.load_from = args.checkpoint
        if args.show or args.show_dir:
            cfg = trigger_visualization_hook(cfg, args)
        runner = build_runner(cfg, ('test', ))
        if args.out is not None:
            runner.test_evaluator.metrics.append(DumpDetResults(args.out))
        runner.test()


if __name__ == '__main__':
    main()
