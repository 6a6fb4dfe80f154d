"""Write the generated shapes data set in COCO format."""
import argparse
import sys


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'root', nargs='?', default='data/shapes', help='folder to make')
    parser.add_argument('--train', type=int, default=1200, help='pictures')
    parser.add_argument('--val', type=int, default=100, help='pictures')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--width', type=int, default=256)
    parser.add_argument('--height', type=int, default=192)
    parser.add_argument(
        '--domains', action='store_true',
        help='pictures of five domains, as by different cameras')
    return parser.parse_args()


def main():
    args = vars(parse_args())
    from mmdet_moe.datasets.shapes import generate

    try:
        print(f'{generate(**args)} written')
    except (OSError, ValueError) as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
