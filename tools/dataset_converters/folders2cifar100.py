"""Write pictures as SUPERCLASS/CLASS/FILE in CIFAR-100's layout, 32 x 32."""
import argparse
import sys
from pathlib import Path


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('train', type=Path, help='folder')
    parser.add_argument('test', type=Path, help='folder')
    parser.add_argument('root', type=Path, help='folder to make')
    parser.add_argument(
        '--names', type=Path,
        help='JSON file with the name of each class, by that of its folder: '
        '{"n02084071": "dog", ...}')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.classification.cifar import write
    from mmdet_moe.classification.folders import read, read_names
    from mmdet_moe.files import DataError

    try:
        names = read_names(args.names) if args.names else {}
        write(args.root, read(dict(train=args.train, test=args.test), names))
    except (DataError, OSError, ValueError) as error:
        sys.exit(f'error: {error}')
    print(f'{args.root} written')


if __name__ == '__main__':
    main()
