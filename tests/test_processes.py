"""Ten steps of a detector on two ranks, and in one process with all pictures.

Pictures, initial weights and constraint are the same, and so must be losses,
gradients, weights and the state of the constraint. What MMDetection itself
does by rank is taken out: the averaging factor of a loss, the statistics of
BatchNorm in the backbone, and the random choice of regions. All is computed in
double precision, gates included: a sum over other batches rounds in another
way, which ten steps enlarge where a ReLU is at its kink.
"""
import itertools
from functools import partial, partialmethod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from detectors import batch
from mmdet.models.dense_heads import rpn_head
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from ranks import on_ranks
from torch import nn

from mmdet_moe.hooks import MoEHook
from mmdet_moe.layers import moe_layers, traced
from mmdet_moe.layers.distributed import world_size

CONFIGS = Path(__file__).parents[1] / 'configs'
DETECTORS = dict(
    subnets='retinanet_moe_fpn_shapes.py',
    positions='positions/retinanet_moe_positions_shapes.py',
    regions='faster_rcnn/faster-rcnn_moe_r18_fpn_shapes.py')
OPTIMIZERS = dict(
    momentum=dict(lr=0.001, momentum=0.9, weight_decay=0.05),
    adamw=dict(lr=0.0001, weight_decay=0.05))
SOFT = ('Importance', 'KL', 'Load', 'Switch', 'Entropy', 'RouterZ', 'Variance')
HARD = ('RelativeImportance', 'MeanImportance', 'LossFreeBias')
CONSTRAINTS = (
    dict(),
    *(dict(soft_constraint=dict(type=f'{name}Loss', weight=0.5),
           noise=name == 'Load') for name in SOFT),
    *(dict(hard_constraint=dict(type=name)) for name in HARD))
ACCUMULATED = 1, 2
STEPS = 10
SINGLE = torch.float32
SETTINGS = list(itertools.product(DETECTORS, OPTIMIZERS, ACCUMULATED))
#: Each constraint once, and all else in turn.
SOME = [(*rest, c) for c, rest in enumerate(
    itertools.islice(itertools.cycle(SETTINGS), len(CONSTRAINTS)))]
BOXES = [[[8 + 4 * i, 12, 40 + 6 * i, 50], [30, 20 + i, 60, 44]]
         for i in range(4)]


def build(name: str, constraint: dict) -> nn.Module:
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / DETECTORS[name]).model
    cfg.backbone.update(base_channels=8, stem_channels=8)
    cfg.neck.in_channels = [8, 16, 32, 64]
    moe = cfg.experts[0] if 'experts' in cfg else cfg.bbox_head.moe
    moe.update(
        dict(soft_constraint=None, num_experts=4, top_k=2,
             balance_weight='sample') | constraint)
    torch.manual_seed(0)
    detector = MODELS.build(cfg)
    detector.init_weights()
    train_mode(detector.double())
    for name, layer in moe_layers(detector).items():
        layer.gate.fc_weight.data *= 5
        layer.gate.fc_bias.data[-1] = -1e4  # the last one never gets anything
        only_for_the_first_picture(detector, name)
        layer.discard()
    return detector


def pictures(detector: nn.Module, seed: int) -> dict:
    """Three of noise, after one that grows brighter from left to right."""
    torch.manual_seed(seed)
    data = batch(detector, [(64, 96)] * 4, objects=BOXES)
    data['inputs'][0] = torch.linspace(-3, 3, 96)
    return dict(data, inputs=data['inputs'].double())


def only_for_the_first_picture(detector: nn.Module, name: str) -> None:
    """Have the gate of a layer send samples of the first picture alone to the
    third expert, so that it has nothing on the other rank."""
    features, logits = [], []
    for some in (slice(1), slice(1, None)):
        data = {key: x[some] for key, x in pictures(detector, 0).items()}
        with traced(detector, features=True) as decisions:
            detector(**data, mode='loss')
        features.append(torch.cat([d.features for d in decisions[name]]))
        logits += [d.routing.logits[:, :2] for d in decisions[name]]
    direction = features[0].mean(dim=0) - features[1].mean(dim=0)
    first, others = ((x @ direction).max().item() for x in features)
    assert first > others
    # From 1 below the logits of the first two experts to 1 above.
    highest = 1 + torch.cat(logits).abs().max().item()
    scale = 2 * highest / (first - others)
    gate = moe_layers(detector)[name].gate
    gate.fc_weight.data[2] = scale * direction
    gate.fc_bias.data[2] = -scale * (first + others) / 2


def train_mode(detector: nn.Module) -> None:
    """But with the statistics of BatchNorm as they are."""
    detector.train()
    for module in detector.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def average_alike(detector: nn.Module) -> None:
    """Divide each loss by the same number, whatever is in the pictures."""
    for module in detector.modules():
        if type(module).__module__.startswith('mmdet.models.losses'):

            def averaged(*args, forward=module.forward, **kwargs):
                if kwargs.get('avg_factor') is not None:
                    # The gradient is the mean over the ranks.
                    kwargs['avg_factor'] = 64 / world_size()
                return forward(*args, **kwargs)

            module.forward = averaged


def train(arm: tuple, rank: int) -> dict:
    """Losses, gradients, the state at the end, and who was busy here."""
    name, optimizer, accumulated, constraint = arm
    model = detector = build(name, CONSTRAINTS[constraint])
    average_alike(detector)
    if world_size() > 1:
        model = MMDistributedDataParallel(detector, device_ids=None)
    kind = torch.optim.SGD if optimizer == 'momentum' else torch.optim.AdamW
    wrapper = OptimWrapper(
        kind(model.parameters(), **OPTIMIZERS[optimizer]),
        accumulative_counts=accumulated, clip_grad=dict(max_norm=10))
    wrapper.initialize_count_status(model, 0, STEPS * accumulated)
    runner = SimpleNamespace(
        model=model, optim_wrapper=wrapper, epoch=0, iter=0, max_epochs=1,
        max_iters=STEPS, message_hub=MessageHub.get_instance('processes'))
    hook = MoEHook()
    hook.before_train(runner)
    busy = torch.zeros(STEPS * accumulated, len(moe_layers(detector)), 4)
    for row, layer in enumerate(moe_layers(detector).values()):
        layer.observe(lambda decision, row=row: busy[i, row].add_(
            (decision.weights != 0).sum(dim=0)))
    gradients = []
    wrapper.optimizer.register_step_pre_hook(lambda *_: gradients.append({
        name: None if p.grad is None else p.grad.clone()
        for name, p in detector.named_parameters()}))
    own = 4 // accumulated // world_size()
    losses = []
    for i in range(STEPS * accumulated):
        train_mode(detector)
        data = pictures(detector, i // accumulated)
        first = own * (world_size() * (i % accumulated) + rank)
        data = {key: x[first:first + own] for key, x in data.items()}
        with wrapper.optim_context(model):
            loss, logs = detector.parse_losses(model(**data, mode='loss'))
        wrapper.update_params(loss)
        hook.after_train_iter(runner, i, outputs=logs)
        losses.append(torch.stack([
            logs[key].detach() for key in sorted(logs) if 'loss' in key]))
    hook.after_train(runner)
    constraints = {
        f'{name}.{key}': value for name, layer in moe_layers(detector).items()
        if layer.hard_constraint is not None
        for key, value in layer.hard_constraint.state_dict().items()}
    return dict(losses=torch.stack(losses), busy=busy, state=constraints,
                gradients=gradients, weights=detector.state_dict())


def nms_in_single(boxes, scores, *args, nms=rpn_head.batched_nms):
    found, kept = nms(boxes.to(SINGLE), scores.to(SINGLE), *args)
    return found.to(boxes), kept


def on_rank(arms: list, rank: int) -> list:
    torch.set_num_threads(1)
    # What gates, losses and constraints ask for.
    torch.float32, torch.Tensor.float = torch.float64, torch.Tensor.double
    AnchorGenerator.grid_priors = partialmethod(
        AnchorGenerator.grid_priors, dtype=torch.float64)
    rpn_head.batched_nms = nms_in_single
    RandomSampler.random_choice = lambda self, gallery, number: gallery[:number]
    torch.randn_like = torch.ones_like  # the same noise everywhere
    return [train(arm, rank) for arm in arms]


def same(found: dict, expected: dict, tolerance: float, arm: tuple) -> None:
    for key in found:
        value = expected[key]
        if value is not None:
            torch.testing.assert_close(
                found[key], value, atol=tolerance, rtol=tolerance,
                msg=lambda text, key=key: f'{arm} {key}: {text}')


@pytest.mark.parametrize('arms', [
    pytest.param(SOME, id='some'),
    *(pytest.param([(*rest, c) for c in range(len(CONSTRAINTS))],
                   id='-'.join(map(str, rest)), marks=pytest.mark.slow)
      for rest in SETTINGS)])
def test_two_ranks_equal_one_process(tmp_path, arms):
    both = on_ranks(partial(on_rank, arms), tmp_path)
    alone = on_ranks(partial(on_rank, arms), tmp_path / 'alone', 1)[0]
    idle = [0, 0]  # on one rank, on both
    for arm, one, *two in zip(arms, alone, *both):
        mean = sum(result['losses'] for result in two) / 2
        same(dict(losses=mean), one, 1e-5, arm)
        for result in two:
            for ours, theirs in zip(result['gradients'], one['gradients']):
                assert [n for n, g in ours.items() if g is None] == [
                    n for n, g in theirs.items() if g is None]
                same(ours, theirs, 1e-5, arm)
            same(result['state'], one['state'], 1e-5, arm)
            same(result['weights'], one['weights'], 1e-5, arm)
        ran = [(result['busy'] > 0).int() for result in two]
        idle[0] += int((ran[0] != ran[1]).sum())
        idle[1] += int((ran[0] + ran[1] == 0).sum())
    assert min(idle) > 0, idle
