"""Train a model."""
import argparse

from arguments import add_arguments


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    add_arguments(parser)
    parser.add_argument(
        '--amp', action='store_true', help='mixed precision: float16 with loss '
        'scaling on a GPU, bfloat16 without one')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='checkpoint to resume from; the latest one in the work folder '
        'if none is named')
    return parser.parse_args()


def main():
    args = parse_args()
    from mmdet_moe.launch import (
        build_runner,
        clear_errors,
        load_config,
        use_mixed_precision,
    )

    with clear_errors():
        cfg = load_config(
            args.config,
            work_dir=args.work_dir,
            cfg_options=args.cfg_options,
            launcher=args.launcher,
            local_rank=args.local_rank)
        if args.amp:
            use_mixed_precision(cfg)
        if args.auto_scale_lr:
            cfg.merge_from_dict({'auto_scale_lr.enable': True})
        if args.resume is not None:
            cfg.resume = True
            if args.resume == 'auto':
                # If there is nothing to resume, the training begins with it.
                cfg.begin_with = cfg.get('load_from')
                cfg.load_from = None
            else:
                cfg.load_from = args.resume
        build_runner(cfg, ('train', 'val')).train()


if __name__ == '__main__':
    main()
