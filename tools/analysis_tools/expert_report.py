"""Test a model and write a page that shows what its experts do."""
import argparse

from mmdet_moe.analysis.report import write_report
from mmdet_moe.launch import (
    add_arguments,
    build_runner,
    clear_errors,
    load_config,
)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_arguments(parser, launcher=False)
    parser.add_argument(
        '--pictures', type=int, default=8, help='how many pictures to show')
    return parser.parse_args()


def main():
    args = parse_args()
    with clear_errors():
        cfg = load_config(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            checkpoint=args.checkpoint)
        page = write_report(build_runner(cfg, ('test', )), args.pictures)
    print((page.parent / 'report.txt').read_text(encoding='utf-8'), end='')
    print(f'{page} written')


if __name__ == '__main__':
    main()
