"""A dense checkpoint as the ``init_cfg`` of a MoE detector."""
from typing import List

from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmdet_moe.layers import add_noise
from mmdet_moe.layers.checks import check_number

from .checkpoints import UpcyclingError, load_dense, read_state


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
        UpcyclingError: A key does not match; lists all of them. Or the
            detector would draw the weights anew afterwards.
    """
    #: See :func:`.build_moe_detector`.
    sets_whole_model = True

    def __init__(self, checkpoint: str, noise: float = 0.01) -> None:
        self.checkpoint = checkpoint
        self.noise = check_number('init_cfg.noise', noise)

    def __call__(self, module: nn.Module) -> None:
        _check_stays(module)
        state, _ = read_state(self.checkpoint)
        report = load_dense(module, state, self.checkpoint)
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


def _check_stays(module: nn.Module) -> None:
    """Refuse a detector that initialises its parts after its ``init_cfg``.

    That of :func:`.build_moe_detector` has a method of its own, which does
    not.
    """
    own = getattr(type(module), 'init_weights', BaseModule.init_weights)
    if own is not BaseModule.init_weights and (
            'init_weights' not in vars(module)):
        name = type(module).__name__
        raise UpcyclingError(
            f'{name} draws weights anew after its init_cfg, so upcycling '
            f"would be undone; use type='MoEDetector', detector='{name}'")


def _initialised(module: nn.Module) -> None:
    """Keep MMEngine from initialising the parts of a module as well."""
    for child in module.children():
        child.is_init = True
