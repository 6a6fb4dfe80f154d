"""The options of a report, as tools take them."""
import argparse
from pathlib import Path

from mmdet_moe.layers.checks import check_int

from .embedding import METHODS
from .interventions import KINDS
from .tables import Options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of :func:`.write_report`."""
    parser.add_argument(
        '--pictures', type=int, default=40, help='how many pictures to show')
    parser.add_argument(
        '--interventions',
        nargs='+',
        choices=KINDS,
        default=tuple(KINDS),
        help='run the model with each expert alone, dropped, in the place '
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


def report_options(args: argparse.Namespace) -> dict:
    """What was given for these options, as :func:`.write_report` takes it.

    Raises:
        ConfigError: A value is not allowed.
    """
    return dict(
        options=Options(args.score_thr, args.resamples, args.permutations,
                        args.seed),
        interventions=args.interventions,
        pictures=check_int('--pictures', args.pictures, 0),
        embedding=args.embedding,
        logs=args.log)
