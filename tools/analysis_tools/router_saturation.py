"""Say when in a training the gates have made up their minds.

    python tools/analysis_tools/router_saturation.py CONFIG \\
        work_dirs/NAME/epoch_1.pth work_dirs/NAME/epoch_2.pth ...

For each checkpoint the part of the selected experts that the last one selects
as well, and in brackets what it would be by chance. To have the checkpoints,
train with default_hooks.checkpoint.max_keep_ckpts=-1.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from arguments import add_arguments


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoints', nargs='+',
                        help='in the order of the training')
    add_arguments(parser, launcher=False)
    return parser.parse_args()


def main():
    args = parse_args()
    from terminaltables import AsciiTable

    from mmdet_moe.analysis.saturation import saturation
    from mmdet_moe.launch import build_runner, clear_errors, load_config
    from mmdet_moe.trust import check_checkpoint

    with clear_errors():
        cfg = load_config(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            checkpoint=args.checkpoints[-1])
        for checkpoint in args.checkpoints:
            check_checkpoint(checkpoint)
        found = saturation(build_runner(cfg, ('test', )), args.checkpoints)
    rows = [[checkpoint] + [
        f'{layer.overlap[i]:.3f} ({layer.chance[i]:.3f})'
        for layer in found.values()
    ] for i, checkpoint in enumerate(args.checkpoints)]
    print(AsciiTable([['checkpoint', *found]] + rows).table)


if __name__ == '__main__':
    main()
