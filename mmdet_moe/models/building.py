"""Any model with experts, from the config of one without."""
import copy
from typing import Callable, List, Mapping, Optional, Sequence

from mmengine.logging import print_log
from mmengine.model import initialize
from mmengine.registry import WEIGHT_INITIALIZERS, Registry
from torch import nn

from mmdet_moe.layers import moe_layers, prune
from mmdet_moe.layers.checks import fail

from .placing import Placed, table_of_experts
from .reporting import report_decisions
from .residual import ResidualMixture


def build_with_experts(registry: Registry, key: str, kind: str, model: dict,
                       *, experts: Sequence[dict],
                       pruned: Optional[Mapping[str, Sequence[int]]],
                       add: Callable[[nn.Module, Sequence[dict]],
                                     List[Placed]],
                       example: str) -> nn.Module:
    """Build a model of a registry with experts in it.

    Args:
        registry: That has the model.
        key: What the config calls the kind of model.
        kind: Its type.
        model: The arguments of that model.
        experts: Where experts are in it, as :func:`.add_experts` takes it.
            May be empty where the config has MoE layers elsewhere.
        pruned: By the name of a MoE layer the experts that stay in it.
        add: Puts the experts there.
        example: A type, for the message.

    Raises:
        ValueError: There is no such model, it would have no experts, or see
            :func:`.add_experts`.
    """
    if not isinstance(kind, str) or not kind:
        fail(f'model.{key}', kind,
             f'the type that the stock config has, such as {example!r}')
    built = registry.build(dict(model, type=kind))
    done = add(built, experts)
    layers = moe_layers(built)
    if not layers:
        fail('model.experts', list(experts),
             'at least one, as no other part of the model has experts')
    for name, keep in (pruned or {}).items():
        if name not in layers:
            fail('model.pruned', name, 'a MoE layer of the model; there are ' +
                 ', '.join(layers))
        prune(layers[name], keep, f'model.pruned, {name}: keep')
    if done:
        print_log(table_of_experts(done), 'current')
    built.init_weights = _Initialise(built)
    report_decisions(built)
    return built


class _Initialise:
    """In the place of a model's ``init_weights``.

    It keeps what has its own weights out of that. A detector may draw all
    parameters of a decoder anew, and the gates' have their own scale; a gate
    that is loaded from a checkpoint is left as it is. So are mixtures that
    start as the identity. And an initialiser of the whole model has the last
    word.

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
        type(model).init_weights(model)
        for handle in handles:
            handle.remove()
        for i, part in enumerate(own):
            if i not in loaded:
                part.load_state_dict(drawn[i])


def _of_the_whole_model(init_cfg) -> List[dict]:
    """Those of a model's initialisers that leave nothing to the others."""
    init_cfg = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    return [
        cfg for cfg in init_cfg
        if getattr(_initialiser(cfg['type']), 'sets_whole_model', False)
    ]


def _initialiser(name):
    return WEIGHT_INITIALIZERS.get(name) if isinstance(name, str) else name
