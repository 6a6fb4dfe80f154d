"""What is done with the config of a family, step by step, in one process."""
import contextlib
import copy
import math
import os
import traceback
from functools import partial
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Tuple

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from mmdet_moe.conversion.building import build_here
from mmdet_moe.conversion.moeify import moeify
from mmdet_moe.launch import load_config
from mmdet_moe.layers import moe_layers, upcycle
from mmdet_moe.models.reporting import report_decisions
from mmdet_moe.names import step_key, weights_field

from .choice import CONFIGS, NO_DETECTORS
from .inputs import batch_of
from .places import place
from .shrink import offline, shrink

#: Of each MoE layer.
EXPERTS = dict(num_experts=4, top_k=2)
SOFT = dict(type='KLLoss')


class Stop(Exception):
    """Why a step cannot be made, whatever the experts do."""


class Family:
    """A detector without experts and with, and what is found out about them.

    Args:
        folder, config: Of MMDetection's configs, see :mod:`.choice`.
        words: Folder of a language model.
        tmp: Folder for what is written.
        note: Gets each finding: the step, whether it is right (None where it
            cannot be), and more about it.
    """

    def __init__(self, folder: str, config: str, words: str, tmp: Path,
                 note: Callable[[str, object, str], None]) -> None:
        self.folder, self.config = folder, config
        self.words, self.tmp, self.note = words, tmp, note
        self.found: Dict[str, object] = {}
        self.dense_runs = False

    def run(self) -> None:
        """All steps; one that does not depend on another is made, whatever
        became of that."""
        with self._step('loads'):
            self.model = self._load()
        if not self.found['loads']:
            return
        with self._step('dense'):
            self.dense = self._build(self.model)
        if not self.found['dense']:
            return
        with self._step('place'):
            self.at = place(
                lambda: MODELS.build(copy.deepcopy(self._inner(self.model))),
                **EXPERTS, soft_constraint=SOFT)
            self.note('at', True, self.at)
        steps = (
            self._dense_predicts, self._built, self._equal, self._decided,
            self._dense_trains, self._trained, self._moeified)
        for step in steps:
            with self._step(step.__name__.strip('_')):
                step()

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.found[name] = False
        try:
            yield
            self.found[name] = True
            self.note(name, True, '')
        except Stop as reason:
            self.note(name, None, str(reason))
        except Exception as error:
            self.note(name, False, _told(error))

    def _need(self, *steps: str) -> None:
        for step in steps:
            if not self.found.get(step):
                raise Stop(f'not {step}')

    # -- the detector ---------------------------------------------------------

    def _load(self) -> ConfigDict:
        if self.folder in NO_DETECTORS:
            raise Stop('no detector: ' + NO_DETECTORS[self.folder])
        init_default_scope('mmdet')
        cfg = load_config(self.config)
        if cfg.get('model') is None:
            raise Stop('no model')
        return shrink(cfg.model, self.words)

    @property
    def wrapped(self) -> bool:
        """Whether the detector is a part of a tracker, or a teacher's."""
        return isinstance(self.model.get('detector'), dict)

    def _build(self, model: ConfigDict) -> nn.Module:
        """With initial weights that are told apart, see ``stock.build``."""
        torch.manual_seed(0)
        detector = MODELS.build(copy.deepcopy(model))
        detector.init_weights()
        for module in detector.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d)) and (
                    module.weight.std() < 0.02) and module.weight.requires_grad:
                nn.init.normal_(module.weight, std=0.02)
        for name, module in detector.named_modules():
            if name.endswith('fc_reg') and isinstance(
                    module, nn.Linear):  # six times over, out of the image
                module.weight.data.mul_(0.1)
            if type(module).__name__ == 'TridentConv':
                # which MMDetection leaves as the memory was
                nn.init.kaiming_normal_(module.weight)
            if type(module).__name__ == 'SSDHead':
                # without which no SSD of MMDetection 3.2 and newer predicts
                vars(module).setdefault('loss_cls', None)
        self._calibrate(detector)
        detector.eval()  # which returns nothing in some detectors
        return detector

    def _inner(self, model: ConfigDict) -> ConfigDict:
        return model.detector if self.wrapped else model

    def _calibrate(self, detector: nn.Module) -> None:
        """Give BatchNorm the statistics of the images: with the initial ones
        what goes through fifty layers becomes infinite."""
        inputs, samples = self._inputs(detector)
        self._calibrate_on(detector, inputs, samples)
        if inputs.dim() == 5 and hasattr(detector, 'detector'):
            # A tracker has a frame at a time, whose deep maps are so small
            # that their statistics are not those of another frame.
            self._calibrate_on(
                detector.detector, inputs.flatten(0, 1),
                [f for s in samples for f in s.video_data_samples])

    def _calibrate_on(self, model: nn.Module, *batch) -> None:
        model.eval()
        handles = []
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                norm.reset_running_stats()
                handles.append(norm.register_forward_pre_hook(_measure))
        with torch.no_grad(), contextlib.suppress(Exception):
            # one that cannot predict fails again in ``_dense_predicts``
            model(*batch, mode='predict')
        for handle in handles:
            handle.remove()

    def _with_experts(self) -> ConfigDict:
        model = copy.deepcopy(self.model)
        part = self._inner(model)
        part.update(
            detector=part.type, type='MoEDetector',
            experts=[dict(EXPERTS, at=self.at, soft_constraint=SOFT)])
        return model

    def _built(self) -> None:
        self._need('place')
        self.moe = self._build(self._with_experts())
        report_decisions(self.moe)  # as MoEHook does, of whatever it trains
        report = upcycle(self.moe, self.dense.state_dict())
        if not report.matches:
            raise AssertionError(f'upcycling: {report}')

    # -- predictions ----------------------------------------------------------

    def _inputs(self, detector: nn.Module) -> Tuple[Tensor, List]:
        """Images or a video, and samples, as they go into a prediction."""
        videos = type(detector.data_preprocessor).__name__.startswith('Track')
        batch = batch_of(self.folder, self.model, videos=videos)
        if self.model.type == 'SoftTeacher':
            batch = {key: value['sup'] for key, value in batch.items()}
        batch = detector.data_preprocessor(batch, False)
        return batch['inputs'], batch['data_samples']

    def _predict(self, detector: nn.Module) -> List:
        """Data samples, of the frames where the detector takes a video."""
        torch.manual_seed(0)
        detector.eval()
        with torch.no_grad():
            samples = detector(*self._inputs(detector), mode='predict')
        return [
            frame for sample in samples
            for frame in getattr(sample, 'video_data_samples', [sample])
        ]

    def _dense_predicts(self) -> None:
        first, again = (
            [_rows(s) for s in self._predict(self.dense)]
            for _ in range(2))
        self.dense_runs = True
        if not any(map(len, first)):
            raise Stop('no detections')
        if not all(len(a) == len(b) and torch.equal(a, b)
                   for a, b in zip(first, again)):
            raise Stop('not deterministic')
        if not all(rows.isfinite().all() for rows in first):
            raise Stop('detections are not finite')
        self.detections = first

    def _equal(self) -> None:
        self._need('built')
        if not self.dense_runs:
            raise Stop('not dense_predicts')
        self.samples = self._predict(self.moe)
        self._need('dense_predicts')
        for dense, sample in zip(self.detections, self.samples):
            moe = _rows(sample)
            if len(dense) != len(moe):
                raise AssertionError(
                    f'{len(moe)} detections for {len(dense)}')
            if len(dense):
                distance = torch.cdist(dense, moe, p=torch.inf)
                off = max(distance.amin(0).max(), distance.amin(1).max())
                if off > 1e-4 * max(1, dense.abs().max()):
                    raise AssertionError(f'off by {off:.2g}')

    def _decided(self) -> None:
        """Each layer has a decision or a reason, and detections have finite
        weights of one, or there is a reason why none has."""
        if not hasattr(self, 'samples'):
            raise Stop('no predictions')
        reasons, known, total, decided = {}, 0, 0, False
        for sample in self.samples:
            decisions, undecided = (
                sample.get(key, {}) for key in ('decisions', 'undecided'))
            for layer in moe_layers(self.moe):
                if layer not in decisions and layer not in undecided:
                    raise AssertionError(
                        f'{layer} is in neither decisions nor undecided')
            decided = decided or bool(decisions)
            reasons.update(undecided)
            # tracks are made of detections, but where there are none
            found = sample.get(
                'pred_instances', sample.get('pred_track_instances', ()))
            total += len(found)
            known += int(sum(
                (found[weights_field(layer)].isfinite().all(1)
                 for layer in decisions if weights_field(layer) in found),
                torch.zeros(len(found))).bool().sum())
        errors = [r for r in reasons.values() if r.startswith('error: ')]
        if errors:
            raise AssertionError(errors[0])
        self.note('weights', True, f'{known}/{total}')
        if reasons:
            self.note('reason', True, '; '.join(sorted(set(reasons.values()))))
        if known or (decided and not total):
            return
        if not reasons:
            raise AssertionError(f'none of {total} detections has weights')
        raise Stop('no detection has weights')

    # -- training -------------------------------------------------------------

    def _train(self, model: ConfigDict, hooks: List[dict]
               ) -> Tuple[Runner, Dict[str, float]]:
        """One iteration of MMEngine's training loop.

        Returns:
            The runner, and by layer the largest gradient in its gate: the
            step itself may be too small to move a parameter.
        """
        part = model
        if self.wrapped and not self._trains_as_a_whole():
            part = copy.deepcopy(model.detector)
            part.data_preprocessor = part.get(
                'data_preprocessor', dict(type='DetDataPreprocessor'))
        videos = 'Track' in str(part.data_preprocessor.type) and (
            not part.data_preprocessor.get('use_det_processor'))
        batch = batch_of(self.folder, part, videos=videos)
        torch.manual_seed(0)
        detector = self._build(part)
        gates: Dict[str, float] = {}

        def see(name: str, gradient: Tensor) -> None:
            gates[name] = max(gates[name], float(gradient.abs().max()))

        for name, layer in moe_layers(detector).items():
            gates[name] = 0.0
            for parameter in layer.gate.parameters():
                if parameter.requires_grad:
                    parameter.register_hook(partial(see, name))
        runner = Runner(
            detector, str(self.tmp / ('moe' if hooks else 'dense')),
            train_dataloader=DataLoader([batch], collate_fn=lambda x: x[0]),
            train_cfg=dict(by_epoch=True, max_epochs=1),
            optim_wrapper=dict(
                optimizer=dict(type='SGD', lr=0.01),
                clip_grad=dict(max_norm=1.0)),
            default_hooks=dict(checkpoint=None), custom_hooks=hooks,
            default_scope='mmdet', log_level='ERROR',
            experiment_name=f'{self.folder}-{len(hooks)}')
        runner.train()
        scalars = runner.message_hub.log_scalars
        for name, value in scalars.items():
            shown = 'loss' in name or 'grad_norm' in name
            if shown and not math.isfinite(float(value.current())):
                raise AssertionError(f'{name} is {value.current()}')
        return runner, gates

    def _trains_as_a_whole(self) -> bool:
        """A tracker without training of its own trains its detector."""
        return self.model.type in (
            'SoftTeacher', 'QDTrack', 'ByteTrack', 'MaskTrackRCNN')

    def _dense_trains(self) -> None:
        # so that there is one detector at a time in memory
        for attribute in ('dense', 'moe'):
            vars(self).pop(attribute, None)
        self._train(self.model, [])

    def _trained(self) -> None:
        self._need('built', 'dense_trains')
        runner, gates = self._train(
            self._with_experts(), [dict(type='MoEHook')])
        scalars = runner.message_hub.log_scalars
        for name, layer in moe_layers(runner.model).items():
            if not any(p.requires_grad for p in layer.parameters()):
                continue  # of a teacher
            if f'train/{step_key(name, "importance", 0)}' not in scalars:
                raise AssertionError(f'{name} is not in the log')
            if not gates[name] > 0:
                raise AssertionError(f'the gate of {name} has no gradient')
        for name, parameter in runner.model.named_parameters():
            if not parameter.isfinite().all():
                raise AssertionError(f'{name} is not finite after the step')

    # -- moeify ---------------------------------------------------------------

    def _moeified(self) -> None:
        """The config of full size; no weights are downloaded."""
        self._need('place')
        cfg = load_config(self.config)
        offline(cfg.model, self.words)
        out = self.tmp / 'moe.py'
        at = self.at
        moeify(cfg, self.config, [at], out=str(out))
        written = load_config(str(out))
        built = build_here(offline(written.model, self.words))
        if not moe_layers(built):
            raise AssertionError('the written config has no experts')


def _measure(norm: _BatchNorm, args: Tuple[Tensor, ...]) -> None:
    """Take the statistics of an input, before it is normalised by them; those
    of several calls count alike."""
    x = args[0].transpose(0, 1).flatten(1)
    norm.num_batches_tracked += 1
    share = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(x.mean(1), share)
    norm.running_var.lerp_(x.var(1, unbiased=False), share)


def _rows(sample) -> Tensor:
    """Boxes (or centres of masks), scores and labels: (n, 4 to 7)."""
    if 'pred_instances' in sample:
        found = sample.pred_instances
    elif 'pred_track_instances' in sample:
        found = sample.pred_track_instances
    else:
        return torch.zeros(0, 1)
    parts = [found.labels[:, None] * 1e3, found.scores[:, None] * 1e2]
    if 'bboxes' in found:
        parts.append(found.bboxes)
    if 'masks' in found:
        masks = torch.as_tensor(found.masks).flatten(1).float()
        parts.append(masks.sum(1, keepdim=True) / 100)
    return torch.cat([part.float() for part in parts], dim=1)


def _told(error: Exception) -> str:
    """An error with the place in our code, or else the last one."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if f'mmdet_moe{os.sep}' in f.filename]
    frame = (ours or frames)[-1]
    where = f'{Path(frame.filename).name}:{frame.lineno}'
    text = str(error).strip().splitlines()
    return f'{type(error).__name__}: {text[0] if text else ""} ({where})'


def run(folder: str, config: str, words: str, tmp: Path,
        note: Callable[[str, object, str], None]) -> None:
    """All steps of one family; the working folder is MMDetection's own, as
    its configs name teachers relative to it."""
    os.chdir(CONFIGS.parent)
    torch.set_num_threads(1)
    Family(folder, config, words, tmp, note).run()
