"""What MoE costs a whole detector: training step, inference, hook, metric.

    python benchmarks/detector.py [--bf16]

RetinaNet with and without experts (E=4, K=2 in both subnets) on made-up
pictures, weights as at the start of a training, medians of interleaved runs.
Small: ResNet-18 with 64 channels, pictures of 320 pixels
(configs/retinanet_moe_fpn_bccd.py). COCO: ResNet-50 with 256 channels and 800
pixels (configs/retinanet_moe_fpn_coco.py). Both are run in inference; trained
is the small one on a CPU, that of COCO on a GPU.

- The head: forward and backward pass on random features.
- A training step is the detector's own train_step: forward, loss, backward
  and optimizer. The floor is the ratio of the floating-point operations of
  both, as PyTorch counts them.
- K=1, batch 1: one of four experts for each level, against the detector
  without.
- The hook: a training step with MoEHook and the KL loss over one without. The
  metric: a validation on 32 generated pictures with ExpertAssignmentMetric
  beside CocoMetric over one with CocoMetric alone.
"""
import argparse
import contextlib
import copy
import io
import math
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch
from measure import keep_memory, machine, medians
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub, MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from terminaltables import GithubFlavoredMarkdownTable
from torch.utils.flop_counter import FlopCounterMode

from mmdet_moe.datasets.shapes import generate
from mmdet_moe.hooks import MoEHook
from mmdet_moe.launch import build_runner, load_config

CONFIGS = Path(__file__).parents[1] / 'configs'
#: Dense detector, detector with experts, size of the pictures, classes.
SMALL = (CONFIGS / 'retinanet_fpn_bccd.py',
         CONFIGS / 'retinanet_moe_fpn_bccd.py', 320, 3)
COCO = ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py',
        CONFIGS / 'retinanet_moe_fpn_coco.py', 800, 80)


def detector(config, device: str, **moe):
    """The detector of a config, without pretrained weights.

    Args:
        config: The file.
        device: Where it is.
        moe: Options of its MoE layers.
    """
    cfg = get_config(config) if str(config).startswith('mmdet::') else (
        Config.fromfile(config))
    cfg.model.backbone.init_cfg = None
    if moe:
        cfg.model.bbox_head.moe.update(moe)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.to(device), cfg


def batch(pictures: int, size: int, classes: int) -> dict:
    return demo_mm_inputs(
        pictures, [[3, size, size]] * pictures, num_classes=classes,
        num_items=[10] * pictures, use_box_type=True)


class TrainingStep:

    def __init__(self, config, device: str, data: dict, *,
                 hook: bool = False, **moe) -> None:
        self.model, cfg = detector(config, device, **moe)
        self.model.train()
        self.data = data
        self.wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.runner = SimpleNamespace(
            model=self.model, optim_wrapper=self.wrapper, max_epochs=1,
            max_iters=1, message_hub=MessageHub.get_instance('benchmark'))
        self.hook = MoEHook() if hook else None
        if hook:
            self.hook.before_train(self.runner)

    def __call__(self) -> None:
        self.model.train_step(copy.deepcopy(self.data), self.wrapper)
        if self.hook is not None:
            self.hook.after_train_iter(self.runner, 0)


class Head:
    """Forward and backward pass of a head, on features with a gradient."""

    def __init__(self, config, device: str, pictures: int, size: int,
                 **moe) -> None:
        self.head = detector(config, device, **moe)[0].bbox_head.train()
        self.levels = [
            torch.randn(pictures, self.head.in_channels, side, side,
                        device=device, requires_grad=True)
            for side in (math.ceil(size / stride[0])
                         for stride in self.head.prior_generator.strides)
        ]

    def __call__(self) -> None:
        for x in (*self.head.parameters(), *self.levels):
            x.grad = None
        maps = [y for part in self.head(self.levels) for y in part]
        torch.autograd.backward(maps, [torch.ones_like(y) for y in maps])


def floor(steps: dict) -> float:
    """Floating-point operations of ``moe`` over those of ``dense``."""
    operations = {}
    for name in ('moe', 'dense'):
        with FlopCounterMode(display=False) as counter:
            steps[name]()
        operations[name] = counter.get_total_flops()
    return operations['moe'] / operations['dense']


class Inference:

    def __init__(self, config, device: str, data: dict, **moe) -> None:
        self.model = detector(config, device, **moe)[0].eval()
        self.data = copy.deepcopy(data)
        for sample in self.data['data_samples']:
            sample.gt_instances = sample.gt_instances[:0]  # none are known

    @torch.no_grad()
    def __call__(self) -> None:
        self.model.test_step(copy.deepcopy(self.data))


def inference(dense, moe, size: int, classes: int, device: str,
              repeats: int) -> dict:
    """Seconds for one picture, dense and with one expert for each level."""
    one = batch(1, size, classes)
    return medians(
        dict(
            dense=Inference(dense, device, one),
            moe=Inference(moe, device, one, top_k=1, soft_constraint=None)),
        repeats)


class Evaluation:
    """A validation over generated shapes, with some of the metrics."""

    def __init__(self, data: Path, folder: Path, metrics: slice) -> None:
        annotations = data / 'annotations' / 'instances_val.json'
        cfg = load_config(
            str(CONFIGS / 'retinanet_moe_fpn_shapes.py'),
            work_dir=str(folder),
            cfg_options={
                'val_dataloader.dataset.data_root': f'{data}/',
                'val_dataloader.num_workers': 0,
                'val_dataloader.persistent_workers': False,
                'val_evaluator.0.ann_file': str(annotations),
                'val_evaluator.1.ann_file': str(annotations)
            })
        cfg.val_evaluator = cfg.val_evaluator[metrics]
        cfg.visualizer.vis_backends = []
        cfg.log_level = 'WARNING'
        cfg.experiment_name = folder.name
        self.runner = build_runner(cfg, ('val', ))
        # nothing is trained: detect something all the same
        self.runner.model.bbox_head.test_cfg.score_thr = 0.0

    def __call__(self) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.runner.val_loop.run()


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--bf16', action='store_true',
                        help='autocast of whole steps, backward pass included, '
                        'but not of the evaluation')
    return parser.parse_args()


def measured(device: str, repeats: int, bf16: bool) -> list:
    """Rows: what, floor, at most, measured."""
    dense, moe, size, classes = COCO if device == 'cuda' else SMALL
    eight = batch(8, size, classes)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        heads = dict(dense=Head(dense, device, 8, size),
                     moe=Head(moe, device, 8, size, soft_constraint=None))
        head, head_floor = medians(heads, repeats), floor(heads)
        steps = dict(
            dense=TrainingStep(dense, device, eight),
            plain=TrainingStep(moe, device, eight, soft_constraint=None),
            moe=TrainingStep(moe, device, eight, hook=True))
        step, step_floor = medians(steps, repeats), floor(steps)
        small, coco = (inference(*which, device, 2 * repeats)
                       for which in (SMALL, COCO))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        shapes = generate(folder / 'shapes', 1, 32)
        evaluation = medians(
            dict(
                coco=Evaluation(shapes, folder / 'coco', slice(1)),
                both=Evaluation(shapes, folder / 'both', slice(2))),
            2 * repeats)
    return [
        ('head, MoE over dense', f'{head_floor:.3f}', '',
         head['moe'] / head['dense']),
        ('training step, MoE over dense', f'{step_floor:.3f}', '',
         step['moe'] / step['dense']),
        ('the same, divided by the ratio of their FLOPs', '1.0',
         'at most 1.05', step['moe'] / step['dense'] / step_floor),
        ('MoEHook and KL loss, share of a training step', '0', 'at most 0.02',
         step['moe'] / step['plain'] - 1),
        ('ExpertAssignmentMetric, share of an evaluation', '0',
         'at most 0.05', evaluation['both'] / evaluation['coco'] - 1),
        ('K=1 inference, batch 1, over dense, COCO', '1.0', 'at most 1.03',
         coco['moe'] / coco['dense']),
        ('the same, small', '1.0', 'at most 1.03',
         small['moe'] / small['dense']),
        ('the same, small, in milliseconds more', '', '',
         1e3 * (small['moe'] - small['dense'])),
        ('training, pictures per second, dense', '', '', 8 / step['dense']),
        ('training, pictures per second, MoE', '', '', 8 / step['moe']),
        ('inference, pictures per second, dense, COCO', '', '',
         1 / coco['dense']),
        ('inference, pictures per second, MoE, K=1, COCO', '', '',
         1 / coco['moe']),
    ]


def main():
    args = parse_args()
    keep_memory()
    init_default_scope('mmdet')
    MMLogger.get_instance('benchmark', log_level='WARNING')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    rows = measured(device, args.repeats, args.bf16)
    print(f'\n{machine()}, {"bfloat16" if args.bf16 else "float32"}, '
          f'medians of {args.repeats}\n')
    print(GithubFlavoredMarkdownTable(
        [['what', 'floor', 'allowed', 'measured']] +
        [[*row[:-1], f'{row[-1]:.3f}'] for row in rows]).table)


if __name__ == '__main__':
    main()
