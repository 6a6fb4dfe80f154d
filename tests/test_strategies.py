"""Training by MMEngine's strategies, FSDP and DeepSpeed, beside copies."""
import os
from functools import partial
from pathlib import Path

import detectors
import pytest
import stock
import torch
from mmdet.registry import MODELS
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import init_default_scope
from mmengine.runner import FlexibleRunner, Runner
from ranks import on_ranks
from torch import nn
from torch.utils.data import DataLoader

import mmdet_moe.detection  # noqa: F401  (in the registries)

OBJECTS = [[[8, 8, 40, 40], [30, 20, 90, 80]], [[4, 4, 24, 20]]]


def fsdp(**options):
    """A strategy; with options of the model's wrapper."""
    return dict(type='FSDPStrategy', model_wrapper=dict(
        type='MMFullyShardedDataParallel', device_id=torch.device('cpu'),
        **dict(dict(use_orig_params=True), **options)))


def deepspeed(stage):
    return dict(type='DeepSpeedStrategy', config=dict(
        train_micro_batch_size_per_gpu=1, zero_allow_untested_optimizer=True,
        zero_optimization=dict(stage=stage)))


def train(rank, folder, strategy=None, lost=False):
    """The losses of six steps, and the shares of experts in them.

    Args:
        strategy: None for DistributedDataParallel.
        lost: Whether a weight of the head is no number.
    """
    os.environ.update(LOCAL_RANK=str(rank), RANK=str(rank), WORLD_SIZE='2')
    torch.set_num_threads(1)
    init_default_scope('mmdet')
    model = detectors.small(detectors.HEADS['retinanet'])
    model.backbone.frozen_stages = -1
    model.update(type='MoEDetector', detector='RetinaNet', experts=[dict(
        at='bbox_head.cls_convs.0', num_experts=4, top_k=1,
        soft_constraint=dict(type='SwitchLoss'),
        hard_constraint=dict(type='LossFreeBias'))])
    torch.manual_seed(5)
    inputs, samples = stock.pictures(OBJECTS)
    batch = dict(inputs=[inputs[rank]], data_samples=[samples[rank]])
    torch.manual_seed(0)
    detector = MODELS.build(model)
    detector.init_weights()
    if lost:
        detector.bbox_head.retina_reg.weight.data[0] = float('nan')
    wrapper = 'OptimWrapper'
    if strategy is None:
        make, detector = Runner, MMDistributedDataParallel(detector)
    else:
        make = partial(FlexibleRunner, strategy=strategy)
        if strategy['type'] == 'DeepSpeedStrategy':
            wrapper = 'DeepSpeedOptimWrapper'
    runner = make(
        detector, work_dir=f'{folder}/{rank}',
        train_dataloader=DataLoader([batch] * 6, collate_fn=lambda x: x[0]),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(type=wrapper, optimizer=dict(
            type='SGD', lr=0.01, momentum=0.9, weight_decay=0.1)),
        custom_hooks=[dict(type='MoEHook'), dict(type='FiniteLossHook')],
        default_hooks=dict(checkpoint=None), default_scope='mmdet',
        experiment_name=Path(folder).name)
    runner.train()
    scalars = runner.message_hub.log_scalars
    return {key: [float(x) for x in scalars[f'train/{key}']._log_history]
            for key in ('loss', 'moe.bbox_head.cls_convs.0.importance_0',
                        'moe.bbox_head.cls_convs.0.share_1')}


def prepare(strategy, monkeypatch):
    if strategy['type'] == 'DeepSpeedStrategy':
        # MMEngine imports it, and versions of today do not have it any more.
        pytest.importorskip('deepspeed.runtime.fp16.onebit')
        monkeypatch.setenv('DS_ACCELERATOR', 'cpu')
        monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
        monkeypatch.setenv('MASTER_PORT', '29611')


def on_cpus(tmp_path, name, **options):
    return on_ranks(partial(train, folder=tmp_path / name, **options),
                    tmp_path / f'{name}_ranks')


@pytest.mark.slow
@pytest.mark.parametrize('strategy', [fsdp(), deepspeed(0)],
                         ids=lambda strategy: strategy['type'])
def test_as_copies(tmp_path, monkeypatch, strategy):
    """Losses and shares of experts are those of copies: an expert decides for
    each level and picture, so some are idle on a rank, or on both."""
    prepare(strategy, monkeypatch)
    both = on_cpus(tmp_path, 'both', strategy=strategy)
    copies = on_cpus(tmp_path, 'copies')
    for a, b in zip(both, copies):
        for key, values in a.items():
            assert values == pytest.approx(b[key], rel=1e-5)


def each_convolution(module, recurse, nonwrapped_numel):
    """A policy, of which modules are sharded on their own."""
    return recurse or isinstance(module, nn.Conv2d)


@pytest.mark.slow
@pytest.mark.parametrize('strategy, lost, message', [
    # Otherwise a layer has no parameters, and would be left out.
    (fsdp(use_orig_params=False), False, 'use_orig_params=False: allowed is'),
    (fsdp(auto_wrap_policy=each_convolution), False,
     'wraps modules in bbox_head.cls_convs.0.experts'),
    (fsdp(), True, r'bbox_head.retina_reg \(Conv2d\) has weights that'),
    (deepspeed(1), False, "optimizer='DeepSpeedZeroOptimizer': allowed is")],
    ids=['flat', 'experts', 'lost', 'zero'])
def test_what_is_refused(tmp_path, monkeypatch, strategy, lost, message):
    prepare(strategy, monkeypatch)
    with pytest.raises(Exception, match=message):
        on_cpus(tmp_path, 'refused', strategy=strategy, lost=lost)
