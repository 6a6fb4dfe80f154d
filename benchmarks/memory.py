"""Whether the memory of a training grows.

    python benchmarks/memory.py CONFIG [--steps 1000] [--cfg-options ...]

Trains for so many steps, without validation, with the hooks and the log that
``tools/train.py`` has, and reads the resident memory of the process after each
step (Linux only). Printed is the slope of a straight line from step 100 on, and
how much lies between the least and the most. The data must be there.
"""
import argparse
import tempfile
from pathlib import Path

import numpy as np
from measure import machine
from mmengine.config import DictAction
from mmengine.hooks import Hook

from mmdet_moe.launch import build_runner, clear_errors, load_config

PAGE = 4096
SETTLED = 100  # steps that are not counted


class Resident(Hook):
    """The megabytes after each step."""

    def __init__(self) -> None:
        self.megabytes = []

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
        self.megabytes.append(pages * PAGE / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--steps', type=int, default=1000)
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, clear_errors():
        cfg = load_config(
            args.config, work_dir=folder, cfg_options=args.cfg_options)
        cfg.train_cfg = dict(
            by_epoch=False, max_iters=args.steps)
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=10**9)
        runner = build_runner(cfg, ('train', ))
        resident = Resident()
        runner.register_hook(resident, priority='LOWEST')
        runner.train()
    used = np.array(resident.megabytes)[SETTLED:]
    slope = np.polyfit(np.arange(len(used)), used, 1)[0]
    print(machine())
    print(f'{args.config}, {args.steps} steps: {used.mean():.0f} MB, '
          f'{1000 * slope:+.1f} MB in 1,000 steps, least to most '
          f'{used.min():.0f} to {used.max():.0f}, first and last hundred '
          f'{used[:100].mean():.0f} and {used[-100:].mean():.0f}')


if __name__ == '__main__':
    main()
