"""Upcycling of whole detectors: from a dense checkpoint to a MoE detector."""
from typing import Any, Dict, List, Tuple

from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmdet_moe.files import DataError
from mmdet_moe.layers import add_noise, moe_layers, upcycle
from mmdet_moe.layers.checks import check_number


class UpcyclingError(DataError):
    """The checkpoint does not fit, or the result is not the dense model."""


@WEIGHT_INITIALIZERS.register_module(name='Upcycle')
class UpcycleInit:
    """Initialise a MoE detector with a dense one of the same architecture.

    As ``init_cfg`` of the detector: ``model = dict(init_cfg=dict(
    type='Upcycle', checkpoint='dense.pth', noise=0.01))``. The ``init_cfg`` of
    its parts are not used then, and nothing else is loaded. A training that
    is resumed does without, see :meth:`leave_out`.

    Args:
        checkpoint: File, or address, of a checkpoint of the dense detector.
        noise: Standard deviation of the noise that is added to the experts,
            in units of that of each parameter tensor.

    Raises:
        UpcyclingError: A key does not match; lists all of them.
    """

    def __init__(self, checkpoint: str, noise: float = 0.01) -> None:
        self.checkpoint = checkpoint
        self.noise = check_number('init_cfg.noise', noise)

    def __call__(self, module: nn.Module) -> None:
        report = load_dense(module, self.checkpoint)
        add_noise(module, self.noise)
        print_log(f'upcycled from {self.checkpoint}: {report}', 'current')
        _initialised(module)

    @classmethod
    def leave_out(cls, model: nn.Module) -> List[str]:
        """Let a model whose weights are loaded afterwards do without.

        The dense checkpoint is not needed then. As with it, the parts of the
        model are not initialised on their own.

        Args:
            model: The model as built, before its ``init_weights``.

        Returns:
            The dense checkpoints that are not loaded; none if the model is
            not upcycled.
        """
        left_out = []
        for module in model.modules():
            given = getattr(module, 'init_cfg', None) or ()
            given = [given] if isinstance(given, dict) else list(given)
            upcycling = [c for c in given if c['type'] in (cls, 'Upcycle')]
            if upcycling:
                left_out += [c['checkpoint'] for c in upcycling]
                module.init_cfg = [c for c in given if c not in upcycling]
                _initialised(module)
        return left_out


def _initialised(module: nn.Module) -> None:
    """Keep MMEngine from initialising the parts of a module as well."""
    for child in module.children():
        child.is_init = True


def read_state(checkpoint: str) -> Tuple[Dict[str, Tensor], dict]:
    """Weights and meta information of a checkpoint of MMDetection."""
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu')
    if not isinstance(content, dict):
        raise UpcyclingError(f'{checkpoint} is not a checkpoint')
    state = content.get('state_dict', content)
    if not all(isinstance(value, Tensor) for value in state.values()):
        raise UpcyclingError(f'{checkpoint} has no state_dict')
    # Detectors saved out of DistributedDataParallel.
    return {key.removeprefix('module.'): value
            for key, value in state.items()}, dict(content.get('meta') or {})


def load_dense(model: nn.Module, checkpoint: str):
    """Copy a dense checkpoint into a MoE detector; see :func:`.upcycle`.

    Raises:
        UpcyclingError: The model has no experts, or a key does not match.
    """
    if not moe_layers(model):
        raise UpcyclingError('the model has no MoE layer to upcycle to')
    state, _ = read_state(checkpoint)
    report = upcycle(model, state)
    if not report.matches:
        raise UpcyclingError(
            f'{checkpoint} is not of the same detector without experts. It '
            'must have the same backbone, neck, head and number of classes, '
            f'and no experts.\n{report}')
    return report


def dense_twin(cfg: Any) -> Any:
    """The config of the same model without experts.

    Every part whose class says ``dense_twin`` becomes one of that type,
    without the keys that the class lists as ``moe_keys``.
    """
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(dense_twin(item) for item in cfg)
    if not isinstance(cfg, dict):
        return cfg
    twin = {key: dense_twin(value) for key, value in cfg.items()}
    cls = MODELS.get(cfg['type']) if isinstance(cfg.get('type'), str) else None
    if hasattr(cls, 'dense_twin'):
        twin = {k: v for k, v in twin.items() if k not in cls.moe_keys}
        twin['type'] = cls.dense_twin
    return ConfigDict(twin)
