"""Test a model and write a page that shows what its experts do."""
import argparse

from mmengine.config import DictAction

from mmdet_moe.analysis.report import write_report
from mmdet_moe.launch import build_runner, clear_errors, load_config


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='folder for the report')
    parser.add_argument(
        '--pictures', type=int, default=8, help='how many pictures to show')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings of the config to override, as key=value')
    return parser.parse_args()


def main():
    args = parse_args()
    with clear_errors():
        cfg = load_config(
            args.config, work_dir=args.work_dir, cfg_options=args.cfg_options)
        cfg.load_from = args.checkpoint
        page = write_report(build_runner(cfg, ('test', )), args.pictures)
    print((page.parent / 'report.txt').read_text(encoding='utf-8'), end='')
    print(f'{page} written')


if __name__ == '__main__':
    main()
