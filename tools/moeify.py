"""Give experts to a detector: write a config, and the checkpoint to start from.

The config inherits the original one. From a checkpoint of the original
detector an upcycled one is made, which gives the same outputs before noise is
added to its experts.

    python tools/moeify.py mmdet::yolox/yolox_nano_8xb8-300e_coco.py \\
        --at 'bbox_head.multi_level_cls_convs.*' --out yolox_moe.py
"""
import argparse
import sys


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        'config', help='config of a detector without experts: a file, or '
        'mmdet::... for one of MMDetection')
    parser.add_argument(
        '--at',
        nargs='+',
        required=True,
        metavar='PATTERN',
        help='modules that become mixtures of experts: dotted names, in which '
        '* stands for one part')
    parser.add_argument(
        '--num-experts', type=int, default=4, help='default: %(default)s')
    parser.add_argument(
        '--top-k', type=int, default=2, help='default: %(default)s')
    parser.add_argument(
        '--soft-constraint',
        nargs='*',
        default=['KLLoss'],
        metavar='LOSS',
        help='losses that balance the experts; none if nothing follows '
        '(default: KLLoss)')
    parser.add_argument(
        '--freeze', action='store_true', help='train the MoE layers only')
    parser.add_argument(
        '--out', help='config to write; it is only printed if not given')
    parser.add_argument(
        '--checkpoint', help='checkpoint of the detector, a file or address')
    parser.add_argument(
        '--checkpoint-out',
        help='checkpoint to write (default: OUT with the ending .pth)')
    parser.add_argument(
        '--noise',
        type=float,
        default=0.01,
        help='standard deviation of the noise on the experts, as a part of '
        'that of each parameter (default: %(default)s)')
    parser.add_argument(
        '--seed', type=int, default=0, help='of the noise and the gates')
    return parser.parse_args()


def main():
    args = vars(parse_args())
    import torch

    from mmdet_moe.conversion.moeify import moeify
    from mmdet_moe.launch import clear_errors, load_config

    torch.manual_seed(args.pop('seed'))
    with clear_errors():
        cfg = load_config(args['config'], checkpoint=args['checkpoint'])
        print(moeify(cfg, command=['python', *sys.argv], **args))


if __name__ == '__main__':
    main()
