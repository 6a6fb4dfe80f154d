"""Make a checkpoint for a MoE detector out of one of the dense detector.

Every expert becomes a copy of the dense layer. That losses and detections
are those of the dense detector is checked before noise is added.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from arguments import add_cfg_options


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config of the MoE detector')
    parser.add_argument('checkpoint', help='checkpoint of the dense detector')
    parser.add_argument('out', help='checkpoint to write')
    parser.add_argument(
        '--noise',
        type=float,
        default=0.01,
        help='standard deviation of the noise on the experts, as a part of '
        "that of each parameter (default: %(default)s)")
    parser.add_argument(
        '--picture', help='picture to compare on; a generated one if not given')
    parser.add_argument('--seed', type=int, default=0, help='of the noise')
    add_cfg_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    import torch

    from mmdet_moe.conversion.upcycle import upcycle_detector
    from mmdet_moe.launch import clear_errors, load_config

    torch.manual_seed(args.seed)
    with clear_errors():
        cfg = load_config(
            args.config,
            cfg_options=args.cfg_options,
            checkpoint=args.checkpoint)
        print(
            upcycle_detector(
                cfg,
                args.checkpoint,
                args.out,
                noise=args.noise,
                picture=args.picture))


if __name__ == '__main__':
    main()
