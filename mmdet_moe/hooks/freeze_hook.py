from fnmatch import fnmatchcase
from typing import List, Optional, Sequence

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from mmdet_moe.layers import moe_layers
from mmdet_moe.layers.checks import ConfigError, fail


@HOOKS.register_module()
class FreezeHook(Hook):
    """Trains the MoE layers only, as the paper does with a trained detector.

    Everything else gets no gradients, and its BatchNorm uses the statistics
    that it has. What is frozen is printed.

    Args:
        trainable: Names of further parameters that are trained, or patterns
            such as ``'neck.*'``.

    Raises:
        ValueError: Before training, if the model has no MoE layer or a
            pattern matches no parameter.
    """
    priority = 'VERY_HIGH'  # before the MoEHook looks at what is frozen

    def __init__(self, trainable: Sequence[str] = ()) -> None:
        self.trainable = (trainable, ) if isinstance(trainable,
                                                     str) else tuple(trainable)
        self._norms: List[nn.Module] = []

    def before_train(self, runner) -> None:
        wrapped = is_model_wrapper(runner.model)
        model = runner.model.module if wrapped else runner.model
        layers = moe_layers(model)
        if not layers:
            raise ConfigError('custom_hooks: FreezeHook found no MoE layer in '
                              'the model, so nothing would be trained')
        names = [name for name, _ in model.named_parameters()]
        for pattern in self.trainable:
            if not any(fnmatchcase(name, pattern) for name in names):
                fail('FreezeHook.trainable', pattern,
                     'a pattern that matches a parameter, as '
                     f"'{names[0]}' or '{names[0].split('.')[0]}.*'")
        def trained(name: str) -> bool:
            return any(name.startswith(f'{layer}.') for layer in layers) or any(
                fnmatchcase(name, p) for p in self.trainable)

        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained(name))
        # By the name of a statistic: not every norm has parameters.
        self._norms = [
            m for name, m in model.named_modules()
            if isinstance(m, nn.modules.batchnorm._BatchNorm)
            and not trained(f'{name}.weight')
        ]
        runner.logger.info(frozen_parts(model))
        if wrapped:
            # DistributedDataParallel has made its list of gradients before.
            runner.model = runner.wrap_model(
                runner.cfg.get('model_wrapper_cfg'), model)

    def before_train_iter(self,
                          runner,
                          batch_idx: int,
                          data_batch: Optional[Sequence] = None) -> None:
        for norm in self._norms:  # the loop has called model.train()
            norm.eval()


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
