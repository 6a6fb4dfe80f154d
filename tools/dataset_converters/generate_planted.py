"""Write generated pictures with planted domains in CIFAR-100's layout."""
import argparse
import sys


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'root', nargs='?', default='data/planted', help='folder to make')
    parser.add_argument('--train', type=int, default=4000, help='pictures')
    parser.add_argument('--test', type=int, default=1000, help='pictures')
    parser.add_argument('--seed', type=int, default=0)
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.classification.cifar import write
    from mmdet_moe.classification.planted import planted

    try:
        write(args.root, dict(
            train=planted(args.train, 2 * args.seed),
            test=planted(args.test, 2 * args.seed + 1)))
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(f'{args.root} written')


if __name__ == '__main__':
    main()
