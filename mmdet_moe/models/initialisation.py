"""``init_weights`` of a model with experts."""
import copy
from contextlib import contextmanager
from functools import partial
from typing import Iterator, List, NamedTuple, Sequence

from mmengine.model import BaseModule, initialize
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmdet_moe.layers import moe_layers

from .mixtures import Mixture
from .residual import ResidualMixture


class Initialise:
    """In the place of a model's ``init_weights``.

    It keeps what has its own weights out of that. A detector may draw all
    parameters of a decoder anew, and the gates' have their own scale; a gate
    that is loaded from a checkpoint is left as it is. So are mixtures that
    start as the identity. And an initialiser of the whole model has the last
    word.

    Many heads have an ``init_weights`` of their own, which sets the weights of
    their layers by name. Where that does not reach the experts of a mixture,
    it is called for each expert, with the expert in the place of the mixture.

    As an object that holds the model it is copied with it.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self) -> None:
        model = self.model
        whole = _of_the_whole_model(model.init_cfg)
        if whole:
            initialize(model, whole)
            model.is_init = True
            return
        own = [layer.gate for layer in moe_layers(model).values()]
        own += [
            block.mixture for block in model.modules()
            if isinstance(block, ResidualMixture) and block.identity_at_start
        ]
        drawn = [copy.deepcopy(part.state_dict()) for part in own]
        loaded, handles = set(), []
        for i, part in enumerate(own):
            handles.append(
                part._register_load_state_dict_pre_hook(
                    lambda state, prefix, *_, i=i: loaded.update(
                        {i} if any(k.startswith(prefix) for k in state) else
                        ())))
        with _reaching_experts(model):
            _initialise(model, is_whole=True)
        for handle in handles:
            handle.remove()
        for i, part in enumerate(own):
            if i not in loaded:
                part.load_state_dict(drawn[i])


class _Spot(NamedTuple):
    """A name of what a dense model does not have.

    Attributes:
        parent, name: Where it is.
        module: A mixture, or a block that was added to a sequence.
        instead: What a dense model has there, once for each expert; empty
            for an added block.
    """
    parent: nn.Module
    name: str
    module: nn.Module
    instead: Sequence[nn.Module]


def _spots(model: nn.Module) -> List[_Spot]:
    found = []
    for parent in model.modules():
        for name, module in parent._modules.items():
            if isinstance(module, Mixture) and module.dense_names is None:
                found.append(_Spot(parent, name, module, module.all_experts))
            elif isinstance(module, ResidualMixture) and isinstance(
                    parent, nn.Sequential):
                found.append(_Spot(parent, name, module, ()))
    return found


@contextmanager
def _reaching_experts(model: nn.Module) -> Iterator[None]:
    """For the time of the block, have each part's own ``init_weights`` reach
    the experts below it."""
    changed = []
    for part in model.modules():
        own = getattr(type(part), 'init_weights', BaseModule.init_weights)
        if (part is not model and own is not BaseModule.init_weights
                and not isinstance(part, Mixture) and _spots(part)):
            part.init_weights = partial(_initialise, part)
            changed.append(part)
    try:
        yield
    finally:
        for part in changed:
            del part.init_weights


def _initialise(part: nn.Module, is_whole: bool = False) -> None:
    """Call the ``init_weights`` of a part's class, for each expert if need
    be."""
    spots, init_weights = _spots(part), type(part).init_weights
    missed: List[str] = []
    for spot in spots:
        spot.module.missed = missed
    try:
        init_weights(part)
    except (AttributeError, IndexError, TypeError):
        if not spots:
            raise
        again = True
    else:
        again = bool(missed) and not (is_whole or _has_pretrained(part))
    finally:
        for spot in spots:
            spot.module.__dict__.pop('missed', None)
    if not again:
        return
    if is_whole:  # the notes that MMEngine makes at the top
        for module in part.modules():
            module.__dict__.pop('_params_init_info', None)
    for e in range(max(len(spot.instead) for spot in spots) or 1):
        with _dense(spots, e):
            for module in part.modules():
                if isinstance(module, BaseModule):
                    module.is_init = False
            init_weights(part)
    for spot in spots:
        if not spot.instead:
            spot.module.init_weights()


@contextmanager
def _dense(spots: Sequence[_Spot], e: int) -> Iterator[None]:
    """Put an expert in the place of each mixture for the time of the block,
    and take away what was added."""
    before = [(spot.parent, dict(spot.parent._modules)) for spot in spots]
    for spot in spots:
        if spot.instead:
            spot.parent._modules[spot.name] = spot.instead[
                min(e, len(spot.instead) - 1)]
        else:
            spot.parent._modules.pop(spot.name)
    try:
        yield
    finally:
        for parent, modules in before:
            parent._modules.clear()
            parent._modules.update(modules)


def _has_pretrained(part: nn.Module) -> bool:
    """Whether a checkpoint, perhaps of a model with experts, is loaded."""
    return any(
        cfg.get('type') == 'Pretrained' for module in part.modules()
        for cfg in _listed(getattr(module, 'init_cfg', None)))


def _of_the_whole_model(init_cfg) -> List[dict]:
    """Those of a model's initialisers that leave nothing to the others."""
    return [
        cfg for cfg in _listed(init_cfg)
        if getattr(_initialiser(cfg['type']), 'sets_whole_model', False)
    ]


def _listed(init_cfg) -> List[dict]:
    return [init_cfg] if isinstance(init_cfg, dict) else list(init_cfg or [])


def _initialiser(name):
    return WEIGHT_INITIALIZERS.get(name) if isinstance(name, str) else name
