"""Routing by k-means: the clusters of the features are found by a hook."""
from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional, Sequence

import numpy as np
import torch
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from mmdet_moe.files import DataError
from mmdet_moe.layers import KMeansGate, moe_layers
from mmdet_moe.layers.checks import ConfigError, check_int

from .wrappers import unwrapped


@HOOKS.register_module()
class KMeansHook(Hook):
    """Fits each :class:`.KMeansGate` to the features of training pictures.

    Before each epoch, as the features move while they are trained; from the
    second time on the clusters start where they were, so that an expert keeps
    its own. The model is in evaluation mode meanwhile. With several ranks the
    first one fits, and the others take its clusters.

    Args:
        pictures: How many training pictures are looked at.
        samples: Most samples per layer that are clustered.
        epochs: From which epoch on the clusters stay; None for never.

    Raises:
        ValueError: No layer of the model has such a gate.
        DataError: There are fewer samples than experts.
    """
    def __init__(self, pictures: int = 64, samples: int = 20000,
                 epochs: Optional[int] = None) -> None:
        self.pictures = check_int('KMeansHook.pictures', pictures, 1)
        self.samples = check_int('KMeansHook.samples', samples, 1)
        self.epochs = epochs if epochs is None else check_int(
            'KMeansHook.epochs', epochs, 1)

    def before_train(self, runner) -> None:
        if not _gates(runner.model):
            raise ConfigError(
                'custom_hooks: KMeansHook found no KMeansGate in the model; '
                "give a layer gate=dict(type='KMeansGate'), or remove the hook")

    def before_train_epoch(self, runner) -> None:
        if self.epochs is not None and runner.epoch >= self.epochs:
            return
        seed = runner.seed or 0
        for name, features in self._features(runner).items():
            gate = _gates(runner.model)[name]
            if is_main_process():
                _fit(name, gate, features, seed, self.pictures)
            for buffer in (gate.centroids, gate.scale):
                broadcast(buffer)

    @torch.no_grad()
    def _features(self, runner) -> Dict[str, np.ndarray]:
        """By layer (n, C), what its gate sees of some training pictures."""
        model, left = runner.model, self.pictures
        was_training = model.training
        model.eval()
        module = unwrapped(model)
        with _seen(_gates(model)) as seen:
            for batch in runner.train_dataloader:
                data = module.data_preprocessor(batch, False)
                module(**data, mode='tensor')
                left -= len(data['inputs'])
                if left <= 0:
                    break
        model.train(was_training)
        generator = torch.Generator().manual_seed(runner.seed or 0)
        return {
            name: _some(torch.cat(parts), self.samples, generator).numpy()
            for name, parts in seen.items() if parts
        }


def _fit(name: str, gate: KMeansGate, features: np.ndarray, seed: int,
         pictures: int) -> None:
    experts = gate.num_experts
    if len(features) < experts:
        raise DataError(
            f'KMeansHook: pictures={pictures} give {len(features)} samples of '
            f'{name}, and it has {experts} experts; there must be a sample for '
            'each. Look at more pictures')
    known = gate.fitted
    clusters = MiniBatchKMeans(
        experts, random_state=seed, batch_size=4096,
        init=gate.centroids.cpu().numpy() if known else 'k-means++',
        n_init=1 if known else 3).fit(features)
    nearest = clusters.transform(features).min(axis=1)
    gate.centroids.copy_(torch.from_numpy(clusters.cluster_centers_))
    gate.scale.fill_(max(float((nearest**2).mean()), 1e-6))


@contextmanager
def _seen(gates: Dict[str, KMeansGate]) -> Iterator[Dict[str, List[Tensor]]]:
    """What the gates see inside of the block; they decide at random there
    as long as they know no clusters."""
    seen: Dict[str, List[Tensor]] = {name: [] for name in gates}
    handles = [
        gate.register_forward_pre_hook(
            lambda gate, inputs, kept=seen[name]: kept.append(
                inputs[0].detach().cpu())) for name, gate in gates.items()
    ]
    unknown = [gate for gate in gates.values() if not gate.fitted]
    for gate in unknown:
        gate.scale.fill_(1)
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for gate in unknown:
            gate.scale.zero_()


def _some(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randperm(len(rows), generator=generator)[:most]
    return rows[chosen]


def _gates(model: nn.Module) -> Dict[str, KMeansGate]:
    layers: Sequence = moe_layers(unwrapped(model)).items()
    return {name: layer.gate for name, layer in layers
            if isinstance(layer.gate, KMeansGate)}
