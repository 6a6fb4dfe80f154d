"""Test a model: its metrics, and which expert does what."""
import argparse

from arguments import add_arguments


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    add_arguments(parser)
    parser.add_argument('--out', help='pickle file for all predictions')
    parser.add_argument(
        '--show', action='store_true', help='show the predictions')
    parser.add_argument('--show-dir', help='folder for painted pictures')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds between pictures')
    args = parser.parse_args()
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out {args.out}: the name must end with .pkl')
    return args


def main():
    args = parse_args()
    from mmengine.registry import METRICS

    from mmdet_moe.config_parts import type_name
    from mmdet_moe.files import check_writable
    from mmdet_moe.launch import (
        CHECKS,
        build_runner,
        clear_errors,
        load_config,
    )
    from mmdet_moe.layers.checks import check_choice

    with clear_errors():
        cfg = load_config(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            launcher=args.launcher,
            local_rank=args.local_rank,
            checkpoint=args.checkpoint)
        scope = cfg.get('default_scope', 'mmdet')
        if args.show or args.show_dir:
            check_choice('--show and --show-dir: default_scope', scope,
                         [s for s in CHECKS if s != 'mmpretrain'])
            from mmdet.engine.hooks.utils import trigger_visualization_hook
            cfg = trigger_visualization_hook(cfg, args)
            hook = cfg.default_hooks.visualization
            if type_name(hook) == 'DetVisualizationHook':
                hook.type = 'mmdet.FolderVisualizationHook'
        if args.out is not None:
            check_writable(args.out)
        runner = build_runner(cfg, ('test', ))
        if args.out is not None:
            kind = ('DumpResults' if scope == 'mmpretrain' else
                    'mmdet.DumpDetResults')
            # The first one, so that no other one can keep it from writing.
            runner.test_evaluator.metrics.insert(
                0, METRICS.build(dict(type=kind, out_file_path=args.out)))
        runner.test()


if __name__ == '__main__':
    main()
