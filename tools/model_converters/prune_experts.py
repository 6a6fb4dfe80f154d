"""Take experts out of a trained detector: a smaller checkpoint, and its config.

    python tools/model_converters/prune_experts.py CONFIG CHECKPOINT OUT.pth \\
        --drop bbox_head.cls_subnet:1,3 bbox_head.reg_subnet:0
    python tools/model_converters/prune_experts.py CONFIG CHECKPOINT OUT.pth \\
        --report report.json --max-loss 0.1

The pruned detector does what the other one does without these experts.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from arguments import add_cfg_options


def layer_and_experts(text: str) -> tuple:
    """``LAYER:E,E`` -> the layer, and its experts."""
    layer, _, experts = text.rpartition(':')
    try:
        return layer, [int(e) for e in experts.split(',')]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r}: allowed is LAYER:E, or LAYER:E,E') from None


def by_layer(pairs: list) -> dict:
    """All experts of a layer, which may be named several times."""
    return {layer: [e for other, experts in pairs if other == layer
                    for e in experts] for layer, _ in pairs}


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the detector')
    parser.add_argument('checkpoint', help='its checkpoint')
    parser.add_argument('out', help='checkpoint to write; the config is beside '
                        'it, with the ending .py')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        '--drop', nargs='+', type=layer_and_experts, metavar='LAYER:E',
        help='the experts that go')
    what.add_argument(
        '--report', help='report.json with interventions: the experts that are '
        'not needed go')
    parser.add_argument(
        '--max-loss', type=float, default=0.1,
        help='with --report: points of AP that each layer may lose at most, at '
        'the upper end of the interval (default: %(default)s)')
    parser.add_argument(
        '--picture', help='picture to compare on; a generated one if not given')
    add_cfg_options(parser)
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.conversion.prune import prune_detector, unneeded
    from mmdet_moe.launch import clear_errors, load_config

    with clear_errors():
        cfg = load_config(
            args.config,
            cfg_options=args.cfg_options,
            checkpoint=args.checkpoint)
        drop = by_layer(args.drop) if args.drop else unneeded(
            args.report, args.max_loss)
        print(
            prune_detector(
                cfg, args.config, args.checkpoint, args.out, drop,
                picture=args.picture))


if __name__ == '__main__':
    main()
