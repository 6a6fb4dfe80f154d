"""From the options of a tool to the arguments of a report."""
import argparse

from mmdet_moe.layers.checks import check_int

from .tables import Options


def report_options(args: argparse.Namespace) -> dict:
    """The values of these options, as :func:`.write_report` takes it.

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
