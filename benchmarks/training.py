"""Where the time of a training goes: the demo, step by step.

    python benchmarks/training.py [CONFIG]

Runs the config's own training loop for an epoch (for the demo on 320
generated pictures) and takes the time of its parts, each without the parts
inside of it. ``waiting for data`` is what the loop spends between two steps;
below, what the workers of the data loader need for the pictures of a step, and
what the epoch's checkpoint and validation take.
"""
import argparse
import tempfile
import time
from collections import defaultdict
from functools import wraps
from pathlib import Path

import torch
from measure import keep_memory, machine, wait
from mmengine.dataset import pseudo_collate
from mmengine.hooks import CheckpointHook, Hook
from terminaltables import GithubFlavoredMarkdownTable

from mmdet_moe.datasets.shapes import generate
from mmdet_moe.hooks import MoEHook
from mmdet_moe.launch import build_runner, load_config
from mmdet_moe.layers import moe_layers

DEMO = Path(__file__).parents[1] / 'configs/retinanet_moe_fpn_shapes.py'
VALIDATED = 80  # pictures
WARM_UP = 4  # steps that are not counted


class Stopwatch:
    """Seconds in functions, without those in other watched functions."""

    def __init__(self) -> None:
        self.seconds = defaultdict(float)
        self._inside = [0.0]

    def watch(self, owner, method: str, label: str) -> None:
        run = getattr(owner, method)

        @wraps(run)
        def timed(*args, **kwargs):
            wait()
            start = time.perf_counter()
            self._inside.append(0.0)
            try:
                return run(*args, **kwargs)
            finally:
                wait()
                taken = time.perf_counter() - start
                self.seconds[label] += taken - self._inside.pop()
                self._inside[-1] += taken

        setattr(owner, method, timed)


class Profile(Hook):
    """Watches a training, and the time between its steps."""

    def __init__(self) -> None:
        self.stopwatch, self.steps, self.ended = Stopwatch(), 0, None
        self.after_epoch = {}

    def watch_whole(self, owner, method: str, label: str) -> None:
        """Take the time of what comes after the steps, parts included."""
        run = getattr(owner, method)

        def timed(*args, **kwargs):
            before, start = self.stopwatch.seconds.copy(), time.perf_counter()
            returned = run(*args, **kwargs)
            self.after_epoch[label] = time.perf_counter() - start
            self.stopwatch.seconds = before
            return returned

        setattr(owner, method, timed)

    def before_train(self, runner) -> None:
        model, head = runner.model, runner.model.bbox_head
        constraints = 'constraints and their log'
        for owner, method, label in (
            (runner.train_loop, 'run_iter', 'logging and other hooks'),
            (model, 'train_step', 'other'),
            (model.data_preprocessor, 'forward', 'normalising pictures'),
            (model.backbone, 'forward', 'backbone'),
            (model.neck, 'forward', 'neck'),
            (head, 'forward', 'head'),
            (head, 'get_anchors', 'targets'),
            (head, 'get_targets', 'targets'),
            (head, 'loss_by_feat', 'losses'),
            (runner.optim_wrapper, 'backward', 'backward pass'),
            (runner.optim_wrapper.optimizer, 'step', 'optimizer'),
            *((layer, 'collect', constraints)
              for layer in moe_layers(model).values()),
            *((hook, 'after_train_iter', constraints)
              for hook in runner.hooks if isinstance(hook, MoEHook)),
        ):
            self.stopwatch.watch(owner, method, label)
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                self.watch_whole(hook, 'after_train_epoch', 'checkpoint')
        self.watch_whole(runner.val_loop, 'run', 'validation')
        run = runner.train_loop.run_iter

        def step(*args, **kwargs):
            if self.steps <= WARM_UP:
                self.stopwatch.seconds.clear()
            else:
                self.stopwatch.seconds['waiting for data'] += (
                    time.perf_counter() - self.ended)
            run(*args, **kwargs)
            self.steps += 1
            self.ended = time.perf_counter()

        runner.train_loop.run_iter = step


def input_pipeline(runner) -> float:
    """Seconds that one worker needs for the pictures of a step."""
    loader = runner.train_loop.dataloader
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker
    start = time.perf_counter()
    pseudo_collate([loader.dataset[i] for i in range(loader.batch_size)])
    torch.set_num_threads(threads)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', nargs='?', default=str(DEMO))
    args = parser.parse_args()
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        options = {}
        if args.config == str(DEMO):
            data = generate(Path(folder, 'shapes'), 320, VALIDATED)
            options = {
                f'{part}_dataloader.dataset.data_root': f'{data}/'
                for part in ('train', 'val')
            }
            for i in range(2):
                options[f'val_evaluator.{i}.ann_file'] = str(
                    data / 'annotations/instances_val.json')
        cfg = load_config(args.config, work_dir=folder, cfg_options=options)
        cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
        cfg.visualizer.vis_backends = []
        cfg.log_level = 'WARNING'
        runner = build_runner(cfg, ('train', ))
        profile = Profile()
        runner.register_hook(profile)
        runner.train()
        workers = runner.train_loop.dataloader.num_workers
        pipeline = input_pipeline(runner)
        validated = len(runner.val_loop.dataloader.dataset)
    n, seconds = profile.steps - WARM_UP, profile.stopwatch.seconds
    once = profile.after_epoch
    rows, total = sorted(
        seconds.items(), key=lambda row: -row[1]), sum(seconds.values())
    print(f'\n{machine()}, {n} steps of {Path(args.config).name}\n')
    print(GithubFlavoredMarkdownTable(
        [['part', 'ms per step', '%']] +
        [[label, f'{1e3 * s / n:.1f}', f'{100 * s / total:.1f}']
         for label, s in (*rows, ('whole step', total))]).table)
    print(f'\n{workers} workers for the data, each {1e3 * pipeline:.0f} ms for '
          'the pictures of a step\n'
          f"a checkpoint: {once['checkpoint']:.2f} s, a validation: "
          f"{1e3 * once['validation'] / validated:.0f} ms for a picture")


if __name__ == '__main__':
    main()
