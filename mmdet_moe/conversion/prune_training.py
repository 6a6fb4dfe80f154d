"""What a training goes on with, without some experts: moments, averages."""
from typing import Callable, Dict, List, Mapping

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from torch.optim import Optimizer

from mmdet_moe.files import DataError

#: Tensors by the names of parameters or buffers -> those that are left.
Prune = Callable[[Dict[str, Tensor]], Dict[str, Tensor]]


def prune_training(content: Mapping, cfg: Config, model: nn.Module,
                   pruned: nn.Module, prune: Prune) -> dict:
    """What a checkpoint has beside the weights.

    Args:
        content: Of the checkpoint of the model with all experts.
        cfg: Of the training.
        model: With all experts.
        pruned: Without those that go.
        prune: Takes their tensors out of a model's state.

    Returns:
        The same of the pruned model: the state of optimizer and schedulers,
        and the weights of an EMAHook; all else as it was.

    Raises:
        DataError: The optimizer of the checkpoint is not that of the config.
    """
    rest = {key: value for key, value in content.items()
            if key not in ('state_dict', 'meta')}
    if 'ema_state_dict' in rest:
        rest['ema_state_dict'] = _of_average(rest['ema_state_dict'], prune)
    if 'optimizer' in rest:
        before, after = (_optimizer(cfg, m) for m in (model, pruned))
        names = _names(before, model)
        saved = rest['optimizer'].get('param_groups', ())
        if [len(g['params']) for g in saved] != [
                len(g['params']) for g in before.param_groups]:
            raise DataError(
                'the state of the optimizer in the checkpoint is not that of '
                'the optim_wrapper of the config; give the config of the '
                'training')
        # Where each parameter was: its number is pruned in the place of it.
        parameters = dict(model.named_parameters())
        was = prune({name: torch.full_like(parameters[name], number)
                     for number, name in enumerate(names)})
        numbers = [int(was[name].flatten()[0])
                   for name in _names(after, pruned)]
        group_of = {number: i for i, group in enumerate(saved)
                    for number in group['params']}
        groups = [group_of[numbers[group['params'][0]]]
                  for group in after.state_dict()['param_groups']]
        rest['optimizer'] = _of_optimizer(
            rest['optimizer'], names, _names(after, pruned), after, groups,
            prune)
        if 'param_schedulers' in rest:
            rest['param_schedulers'] = [
                _of_scheduler(state, groups, len(saved))
                for state in rest['param_schedulers']]
    return rest


def _optimizer(cfg: Config, model: nn.Module) -> Optimizer:
    """The optimizer of torch, as the training has it.

    What a wrapper does beside, such as AMP, does not change its parameters
    and may need a GPU.
    """
    wrapper = cfg.optim_wrapper
    return build_optim_wrapper(model, {
        key: wrapper[key] for key in ('optimizer', 'constructor',
                                      'paramwise_cfg') if key in wrapper
    }).optimizer


def _of_average(state: Mapping[str, Tensor], prune: Prune) -> dict:
    """The pruned state of EMAHook's model, whose names begin with
    ``module.``."""
    start = 'module.'
    own = prune({key.removeprefix(start): value for key, value in state.items()
                 if key.startswith(start)})
    return {**{key: value for key, value in state.items()
               if not key.startswith(start)},
            **{start + key: value for key, value in own.items()}}


def _of_optimizer(content: dict, before: List[str], after: List[str],
                  optimizer: Optimizer, was: List[int],
                  prune: Prune) -> dict:
    """Torch numbers parameters by their place in the groups."""
    moments: Dict[str, Dict[str, Tensor]] = {}
    for number, own in content['state'].items():
        for key, value in own.items():
            moments.setdefault(key, {})[before[number]] = value
    left = {key: prune(values) for key, values in moments.items()}
    groups = optimizer.state_dict()['param_groups']
    for group, i in zip(groups, was):
        group.update({key: value
                      for key, value in content['param_groups'][i].items()
                      if key != 'params'})
    return dict(
        content,
        param_groups=groups,
        state={
            number: {key: values[name] for key, values in left.items()
                     if name in values}
            for number, name in enumerate(after)
            if any(name in values for values in left.values())
        })


def _of_scheduler(state: dict, was: List[int], groups: int) -> dict:
    """A scheduler keeps a value for each group; MMEngine's wrapper may have
    one group more, at the end, which stays."""
    return {
        key: [value[i] for i in was] + list(value[groups:])
        if isinstance(value, list) and len(value) in (groups, groups + 1)
        else value for key, value in state.items()
    }


def _names(optimizer: Optimizer, model: nn.Module) -> List[str]:
    """The names of the optimizer's parameters, in its order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups
            for p in group['params']]
