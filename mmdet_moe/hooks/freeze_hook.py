from fnmatch import fnmatchcase
from typing import List, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import nn

from mmdet_moe.layers import moe_layers
from mmdet_moe.layers.checks import ConfigError, fail

from .wrappers import unwrapped


@HOOKS.register_module()
class FreezeHook(Hook):
    """Trains the MoE layers only, as the paper does with a trained detector.

    Everything else gets no gradients, and its BatchNorm uses the statistics
    that it has. What was frozen before, as by ``frozen_stages`` of the
    backbone, stays frozen. What is frozen is printed.

    Args:
        trainable: Names of further parameters that are trained, or patterns
            such as ``'neck.*'``.

    Raises:
        ValueError: Before training, if the model has no MoE layer, nothing
            is left to train, or a pattern matches no parameter that can be
            trained.
    """
    priority = 'VERY_HIGH'  # before the MoEHook looks at what is frozen

    def __init__(self, trainable: Sequence[str] = ()) -> None:
        self.trainable = (trainable, ) if isinstance(trainable,
                                                     str) else tuple(trainable)
        self._norms: List[nn.Module] = []

    def before_train(self, runner) -> None:
        model = unwrapped(runner.model)
        self._check_patterns(model)
        layers = _layers_to_train(model, self.trainable)

        def trained(name: str) -> bool:
            return any(name.startswith(f'{layer}.') for layer in layers) or any(
                fnmatchcase(name, p) for p in self.trainable)

        for name, parameter in model.named_parameters():
            if not trained(name):
                parameter.requires_grad_(False)
        # By the name of a statistic: not every norm has parameters.
        self._norms = [
            m for name, m in model.named_modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
            and not trained(f'{name}.weight')
        ]
        runner.logger.info(frozen_parts(model))
        if model is not runner.model:
            # DistributedDataParallel has made its list of gradients before.
            runner.model = runner.wrap_model(
                runner.cfg.get('model_wrapper_cfg'), model)
            if runner.cfg.get('compile'):
                # The runner has compiled the wrapper that was there before;
                # it has no public method for this.
                runner._maybe_compile('train_step')

    def _check_patterns(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        first = next(iter(parameters), '')
        for pattern in self.trainable:
            matched = [n for n in parameters if fnmatchcase(n, pattern)]
            if not matched:
                fail('FreezeHook.trainable', pattern,
                     f"a pattern that matches a parameter, as '{first}' or "
                     f"'{first.split('.')[0]}.*'")
            if not any(parameters[name].requires_grad for name in matched):
                fail('FreezeHook.trainable', pattern,
                     'a pattern that matches a parameter that is not frozen '
                     f"already, as '{matched[0]}' is, for example by "
                     'frozen_stages of the backbone')

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence] = None) -> None:
        for norm in self._norms:  # the loop has called model.train()
            norm.eval()


def _layers_to_train(model: nn.Module, trainable: Sequence[str]) -> List[str]:
    """Names of the MoE layers that are not frozen already."""
    layers = moe_layers(model)
    if not layers:
        raise ConfigError('custom_hooks: FreezeHook found no MoE layer in '
                          'the model, so nothing would be trained')
    found = [
        name for name, layer in layers.items()
        if any(p.requires_grad for p in layer.parameters())
    ]
    if not found and not trainable:
        raise ConfigError(
            'custom_hooks: FreezeHook leaves nothing to train: all MoE layers '
            f'({", ".join(layers)}) are frozen already; lower frozen_stages '
            'of the backbone, or name something in FreezeHook.trainable')
    return found


def frozen_parts(model: nn.Module) -> str:
    """A line for each part that is frozen as a whole, and for the others."""
    lines = []

    def visit(module: nn.Module, name: str) -> None:
        parameters = list(module.parameters())
        if not parameters:
            return
        trained = {p.requires_grad for p in parameters}
        if len(trained) == 1:
            what = 'trained' if trained.pop() else 'frozen'
            count = sum(p.numel() for p in parameters)
            lines.append(f'  {what:8s}{name}: {count:,} parameters')
            return
        for part, child in module.named_children():
            visit(child, f'{name}.{part}' if name else part)

    visit(model, '')
    return 'What is trained, and what is not:\n' + '\n'.join(lines)
