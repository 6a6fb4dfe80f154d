"""Train and report a grid of configs; go on where it stopped."""
import argparse
import sys
from pathlib import Path

from arguments import add_report_arguments


def named_values(text: str):
    name, equals, values = text.partition('=')
    if not equals:
        raise argparse.ArgumentTypeError(f'{text!r}: AXIS=VALUE is expected')
    return name, values.split(',')


def report_option(text: str):
    name, equals, values = text.partition('=')
    return f'--{name}', *(values.split(',') if equals else ())


def check_report_options(options: list):
    """Refuse them now, and not after the first training."""
    parser = argparse.ArgumentParser(
        prog='--report-options', add_help=False, allow_abbrev=False)
    add_report_arguments(parser)
    from mmdet_moe.analysis.arguments import report_options
    report_options(parser.parse_args(options))


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
    from mmdet_moe.files import TrainingError
    from mmdet_moe.launch import clear_errors
    from mmdet_moe.layers.checks import check_choice, check_int
    from mmdet_moe.sweep import runs_of, sweep, write_configs, write_slurm

    work_dir = args.work_dir or Path('work_dirs', Path(args.grid).stem)
    with clear_errors():
        check_int('jobs', args.jobs, 1)
        runs = runs_of(args.grid, seeds=args.seeds, only=dict(args.only))
        if args.run is not None:
            names = [run.name for run in runs]
            check_choice('--run', args.run, names)
            runs = [run for run in runs if run.name == args.run]
        report = [part for option in args.report_options
                  for part in report_option(option)]
        check_report_options(report)
        if args.write_configs:
            write_configs(runs, args.write_configs)
            print(f'{args.write_configs} written')
            return
        if args.slurm:
            write_slurm(runs, args.slurm, [
                sys.executable, sys.argv[0], args.grid, '--work-dir',
                str(work_dir), *given('--cfg-options', args.cfg_options),
                *given('--report-options', args.report_options)])
            print(f'{args.slurm} written; for the table of all runs call '
                  'this again with --table')
            return
        try:
            for line in () if args.table else sweep(
                    runs, work_dir, Path(__file__).parent, jobs=args.jobs,
                    cfg_options=args.cfg_options, report_options=report):
                print(line, flush=True)
        except TrainingError:  # there may be a table of the others
            show_table(args, work_dir)
            raise
        show_table(args, work_dir)


def show_table(args, work_dir: Path):
    from mmdet_moe.sweep import write_table
    if args.run is None:  # jobs would write it at the same time
        print(write_table(args.grid, work_dir), end='')


if __name__ == '__main__':
    main()
