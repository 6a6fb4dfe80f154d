"""Options that several tools have.

Tools parse their arguments before they import what takes seconds, so that
``--help`` answers at once. So neither this file nor the head of a tool imports
more than Python's own modules.
"""
import argparse
import os
from pathlib import Path

#: Of mmdet_moe.trust: with the value 1, the code in checkpoints is run.
RUN_CODE = 'MMDET_MOE_RUN_CODE_IN_CHECKPOINTS'
#: What a report can run the model with (mmdet_moe.analysis.interventions).
INTERVENTIONS = ('expert', 'drop', 'replace', 'top_k', 'random_routing')
#: How it brings gate logits to two dimensions (mmdet_moe.analysis.embedding).
EMBEDDINGS = ('tsne', 'pca')


class KeyValues(argparse.Action):
    """``key=value ...``, as MMEngine reads it."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from mmengine.config import DictAction
        DictAction(self.option_strings, self.dest)(
            parser, namespace, values, option_string)


class RunCode(argparse.Action):
    """In the environment, for all that loads a checkpoint."""

    def __call__(self, *_) -> None:
        os.environ[RUN_CODE] = '1'


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add the option that changes keys of a config."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValues,
        help='settings of the config to override, as key=value')


def add_arguments(parser: argparse.ArgumentParser,
                  launcher: bool = True) -> None:
    """Add the options that MMDetection's tools share.

    Args:
        parser: Of the tool.
        launcher: Whether the tool runs in several processes as well.
    """
    parser.add_argument('--work-dir', help='folder for what is written')
    add_cfg_options(parser)
    parser.add_argument(
        '--run-code-in-checkpoints', action=RunCode, nargs=0,
        help='load checkpoints that hold more than tensors, numbers and texts, '
        'and run the code that is in them: only if you trust whoever made them')
    if launcher:
        parser.add_argument(
            '--launcher',
            choices=('none', 'pytorch', 'slurm', 'mpi'),
            default='none',
            help='how the processes are started')
        # torch's launcher gives it, or sets the variable itself.
        parser.add_argument(
            '--local_rank', '--local-rank', type=int, default=0)


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a report."""
    parser.add_argument(
        '--pictures', type=int, default=40, help='how many pictures to show')
    parser.add_argument(
        '--interventions',
        nargs='+',
        choices=INTERVENTIONS,
        default=INTERVENTIONS,
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
        default=500,
        help='how often the pictures are drawn anew, for the intervals')
    parser.add_argument(
        '--permutations',
        type=int,
        default=999,
        help='how often signs are drawn, for the p-values')
    parser.add_argument(
        '--seed', type=int, default=0, help='of all that is drawn')
    parser.add_argument(
        '--embedding',
        choices=EMBEDDINGS,
        default=EMBEDDINGS[0],
        help='how the gate logits are brought to two dimensions')
    parser.add_argument(
        '--log',
        type=Path,
        nargs='*',
        help="scalars.json of the training; by default those in the "
        "checkpoint's folder")
