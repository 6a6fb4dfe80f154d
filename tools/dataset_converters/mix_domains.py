"""Make one COCO data set of several domains out of several COCO data sets.

    python tools/dataset_converters/mix_domains.py \\
        data/domains/annotations/train.json \\
        cells=data/bccd/annotations/train.json:../bccd/images \\
        cars=data/cars/train.json:../cars/pictures

The classes are named DOMAIN:CLASS, and each picture's entry has the key
"domain", which DomainCocoDataset and DomainCocoMetric read.
"""
import argparse
import json
from pathlib import Path


def domain(text: str) -> tuple:
    """``DOMAIN=FILE:PICTURES`` -> its parts."""
    name, _, rest = text.partition('=')
    file, _, pictures = rest.partition(':')
    if not name or not file or not pictures:
        raise argparse.ArgumentTypeError(
            f'{text!r}: allowed is DOMAIN=FILE:PICTURES')
    return name, file, pictures


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='annotation file to write')
    parser.add_argument(
        'domains', nargs='+', type=domain, metavar='DOMAIN=FILE:PICTURES',
        help='an annotation file, and the folder of its pictures as seen from '
        'the data_prefix of the config')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.datasets.mixing import mix_domains
    from mmdet_moe.files import write_text
    from mmdet_moe.launch import clear_errors

    with clear_errors():
        mixed = mix_domains(args.domains)
        write_text(args.out, json.dumps(mixed))
    print(f'{args.out}: {len(mixed["images"])} pictures, '
          f'{len(mixed["annotations"])} objects, '
          f'{len(mixed["categories"])} classes')


if __name__ == '__main__':
    main()
