"""Count the parameters and FLOPs of a model, as routed and in total."""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from arguments import add_cfg_options


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the picture, in pixels; by default what the test pipeline '
        'scales to')
    parser.add_argument(
        '--json', type=Path, help='file for the exact numbers')
    add_cfg_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.analysis.complexity import as_text, complexity
    from mmdet_moe.files import write_text
    from mmdet_moe.launch import clear_errors, load_config

    with clear_errors():
        cfg = load_config(args.config, cfg_options=args.cfg_options)
        result = complexity(cfg, args.shape)
        if args.json is not None:
            write_text(args.json, result.json())
    print(as_text(result), end='')
    if args.json is not None:
        print(f'{args.json} written')


if __name__ == '__main__':
    main()
