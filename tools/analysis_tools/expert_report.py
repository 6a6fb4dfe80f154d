"""Test a model and write a page that shows what its experts do."""
import argparse
from pathlib import Path

from mmdet_moe.analysis.embedding import METHODS
from mmdet_moe.analysis.interventions import KINDS
from mmdet_moe.analysis.report import write_report
from mmdet_moe.analysis.tables import Options
from mmdet_moe.launch import (
    add_arguments,
    build_runner,
    clear_errors,
    load_config,
)


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_arguments(parser)
    parser.add_argument(
        '--pictures', type=int, default=40, help='how many pictures to show')
    parser.add_argument(
        '--interventions',
        nargs='+',
        choices=KINDS,
        default=tuple(KINDS),
        help='run the detector with each expert alone, dropped, in the place '
        'of each other one, with another K, or with experts drawn at random; '
        'all of it by default')
    parser.add_argument(
        '--no-interventions',
        dest='interventions',
        action='store_const',
        const=(),
        help='nothing of it, which is much faster')
    parser.add_argument(
        '--score-thr',
        type=float,
        help='predictions below this score are not in the tables; by default '
        '0.3 for detections, and none where whole pictures are classified')
    parser.add_argument(
        '--resamples',
        type=int,
        default=Options.resamples,
        help='how often the pictures are drawn anew, for the intervals')
    parser.add_argument(
        '--permutations',
        type=int,
        default=Options.permutations,
        help='how often signs are drawn, for the p-values')
    parser.add_argument(
        '--seed',
        type=int,
        default=Options.seed,
        help='of all that is drawn')
    parser.add_argument(
        '--embedding',
        choices=METHODS,
        default=METHODS[0],
        help='how the gate logits are brought to two dimensions')
    parser.add_argument(
        '--log',
        type=Path,
        nargs='*',
        help="scalars.json of the training; by default those in the "
        "checkpoint's folder")
    parser.add_argument(
        '--resume',
        action='store_true',
        help='go on with a report that was cut off in the same folder')
    return parser.parse_args()


def main():
    args = parse_args()
    with clear_errors():
        cfg = load_config(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            launcher=args.launcher,
            local_rank=args.local_rank,
            checkpoint=args.checkpoint)
        options = Options(args.score_thr, args.resamples, args.permutations,
                          args.seed)
        page = write_report(
            build_runner(cfg, ('test', )),
            options,
            interventions=args.interventions,
            pictures=args.pictures,
            embedding=args.embedding,
            logs=args.log,
            resume=args.resume)
    if page is None:  # another process writes it
        return
    print((page.parent / 'report.txt').read_text(encoding='utf-8'), end='')
    print(f'{page} written')


if __name__ == '__main__':
    main()
