"""Test a model and write a page that shows what its experts do."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from arguments import add_arguments, add_report_arguments


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_arguments(parser)
    add_report_arguments(parser)
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on with a report that was cut off in the same folder')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.analysis.arguments import report_options
    from mmdet_moe.analysis.report import write_report
    from mmdet_moe.launch import build_runner, clear_errors, load_config

    with clear_errors():
        options = report_options(args)
        cfg = load_config(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            launcher=args.launcher,
            local_rank=args.local_rank,
            checkpoint=args.checkpoint)
        page = write_report(
            build_runner(cfg, ('test', )), resume=args.resume, **options)
    if page is None:  # another process writes it
        return
    print((page.parent / 'report.txt').read_text(encoding='utf-8'), end='')
    print(f'{page} written')


if __name__ == '__main__':
    main()
