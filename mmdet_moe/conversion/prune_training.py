"""What a training goes on with, without some experts: moments, averages."""
from typing import Callable, Dict, List, Mapping

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import Tensor, nn
from torch.optim import Optimizer

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
        The same of the pruned model: the state of the optimizer, and the
        weights of an EMAHook; all else as it was.
    """
    rest = {key: value for key, value in content.items()
            if key not in ('state_dict', 'meta')}
    if 'ema_state_dict' in rest:
        rest['ema_state_dict'] = _of_average(rest['ema_state_dict'], prune)
    if 'optimizer' in rest:
        # Of torch: MMEngine's wrapper has one group more, for the log.
        before, after = (build_optim_wrapper(m, cfg.optim_wrapper).optimizer
                         for m in (model, pruned))
        rest['optimizer'] = _of_optimizer(
            rest['optimizer'], _names(before, model), _names(after, pruned),
            after, prune)
    return rest


def _of_average(state: Mapping[str, Tensor], prune: Prune) -> dict:
    """Of EMAHook's model, whose names begin with ``module.``."""
    start = 'module.'
    own = prune({key.removeprefix(start): value for key, value in state.items()
                 if key.startswith(start)})
    return {**{key: value for key, value in state.items()
               if not key.startswith(start)},
            **{start + key: value for key, value in own.items()}}


def _of_optimizer(content: dict, before: List[str], after: List[str],
                  optimizer: Optimizer, prune: Prune) -> dict:
    """Torch numbers parameters by their place in the groups."""
    moments: Dict[str, Dict[str, Tensor]] = {}
    for number, own in content['state'].items():
        for key, value in own.items():
            moments.setdefault(key, {})[before[number]] = value
    left = {key: prune(values) for key, values in moments.items()}
    # Where each parameter was: a number is pruned in the place of its values.
    was = prune({name: torch.tensor([number]).expand(_MOST)
                 for number, name in enumerate(before)})
    group_of = {number: group for group in content['param_groups']
                for number in group['params']}
    groups = optimizer.state_dict()['param_groups']
    for group in groups:
        same = group_of[int(was[after[group['params'][0]]][0])]
        group.update({key: value for key, value in same.items()
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


#: More rows than a layer has experts.
_MOST = 100_000


def _names(optimizer: Optimizer, model: nn.Module) -> List[str]:
    """Of the optimizer's parameters, in its order."""
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups
            for p in group['params']]
