"""Put runs side by side: metrics, use of the experts, specialisation."""
import argparse
from pathlib import Path


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'runs',
        nargs='+',
        help='FILE or NAME=FILE: a report.json of expert_report.py, or, for a '
        'model without experts, the JSON file that tools/test.py writes')
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/comparison.html'),
        help='the page to write')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.analysis.comparison import compare, read_run
    from mmdet_moe.launch import clear_errors

    with clear_errors():
        runs = [read_run(run) for run in args.runs]
        print(compare(runs, args.out), end='')
    print(f'{args.out} written')


if __name__ == '__main__':
    main()
