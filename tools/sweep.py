"""Train and report a grid of configs; go on where it stopped."""
import argparse
import sys
from pathlib import Path

from mmdet_moe.launch import clear_errors
from mmdet_moe.layers.checks import check_choice, check_int
from mmdet_moe.sweep import (
    runs_of,
    sweep,
    write_configs,
    write_slurm,
    write_table,
)


def named_values(text: str):
    name, _, values = text.partition('=')
    return name, values.split(',')


def report_option(text: str):
    name, values = named_values(text)
    return f'--{name}', *(values if '=' in text else ())


def given(name: str, values: list):
    return [name, *values] if values else []


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('grid', help='file with base and axes')
    parser.add_argument('--work-dir', type=Path, help='folder for all runs')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0])
    parser.add_argument(
        '--only', nargs='+', type=named_values, default=[],
        metavar='AXIS=VALUE,VALUE', help='a part of the grid')
    parser.add_argument('--run', help='only the run of this name')
    parser.add_argument(
        '--jobs', type=int, default=1, help='runs at a time')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], help='of each run')
    parser.add_argument(
        '--report-options', nargs='+', default=[],
        metavar='NAME=VALUE,VALUE',
        help='options of expert_report.py, such as pictures=8')
    parser.add_argument(
        '--table', action='store_true', help='only collect the results')
    parser.add_argument(
        '--write-configs', type=Path, metavar='FOLDER',
        help='only write the configs')
    parser.add_argument(
        '--slurm', type=Path, metavar='FILE',
        help='only write a job array, for sbatch')
    return parser.parse_args()


def main():
    args = parse_args()
    work_dir = args.work_dir or Path('work_dirs', Path(args.grid).stem)
    with clear_errors():
        check_int('jobs', args.jobs, 1)
        runs = runs_of(args.grid, seeds=args.seeds, only=dict(args.only))
        if args.run is not None:
            names = [run.name for run in runs]
            check_choice('--run', args.run, names)
            runs = [run for run in runs if run.name == args.run]
        if args.write_configs:
            write_configs(runs, args.write_configs)
        elif args.slurm:
            write_slurm(runs, args.slurm, [
                sys.executable, sys.argv[0], args.grid, '--work-dir',
                str(work_dir), *given('--cfg-options', args.cfg_options),
                *given('--report-options', args.report_options)])
        elif not args.table:
            report = [part for option in args.report_options
                      for part in report_option(option)]
            for line in sweep(
                    runs, work_dir, Path(__file__).parent, jobs=args.jobs,
                    options=args.cfg_options, report=report):
                print(line, flush=True)
        if not (args.write_configs or args.slurm or args.run):
            print(write_table(runs, work_dir), end='')


if __name__ == '__main__':
    main()
