"""Training steps of a compiled detector, over those of the same, uncompiled.

    python benchmarks/compiled.py [CONFIG] [--steps 20]

The detector is compiled as MMEngine does it with ``compile=True``. After ten
steps of each, of which the time is printed, steps of both are taken in turns.
"""
import argparse
import itertools
import tempfile
import time
from pathlib import Path

from measure import keep_memory, machine, medians
from mmengine.runner import Runner

from mmdet_moe.datasets.shapes import generate
from mmdet_moe.hooks import MoEHook
from mmdet_moe.launch import build_runner, load_config

DEMO = Path(__file__).parents[1] / 'configs/retinanet_moe_fpn_shapes.py'
WARM_UP = 10


def stepper(runner: Runner):
    """A function that makes a training step."""
    batches = list(itertools.islice(
        runner.build_dataloader(runner.cfg.train_dataloader), 4))
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.train_loop  # noqa: B018  (is built)
    runner.model.train()
    runner._maybe_compile('train_step')
    hooks = [hook for hook in runner.hooks if isinstance(hook, MoEHook)]
    for hook in hooks:
        hook.before_train(runner)
    data = enumerate(itertools.cycle(batches))

    def step() -> None:
        i, batch = next(data)
        logs = runner.model.train_step(batch, runner.optim_wrapper)
        for hook in hooks:
            hook.after_train_iter(runner, i, batch, logs)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config', nargs='?', default=str(DEMO))
    parser.add_argument('--steps', type=int, default=20)
    args = parser.parse_args()
    keep_memory()
    steps = {}
    with tempfile.TemporaryDirectory() as folder:
        data = generate(Path(folder, 'shapes'), 64, 1)
        for name in ('eager', 'compiled'):
            cfg = load_config(args.config, work_dir=folder)
            if 'shapes' in cfg.train_dataloader.dataset.data_root:
                cfg.train_dataloader.dataset.data_root = f'{data}/'
            cfg.compile = name == 'compiled'
            # Both decide alike, all the time: a step takes the longer the more
            # experts it runs.
            cfg.randomness = dict(seed=0)
            cfg.optim_wrapper.optimizer.lr = 0.0
            cfg.visualizer.vis_backends = []
            cfg.log_level = 'WARNING'
            cfg.experiment_name = name
            steps[name] = stepper(build_runner(cfg, ('train', )))
        print(machine(), Path(args.config).name)
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(WARM_UP):
                step()
            print(f'{name}: {time.perf_counter() - start:.0f} s for the first '
                  f'{WARM_UP} steps')
        seconds = medians(steps, args.steps)
    print(f'then {seconds["eager"]:.3f} s and {seconds["compiled"]:.3f} s for '
          f'a step: {seconds["compiled"] / seconds["eager"]:.3f}')


if __name__ == '__main__':
    main()
