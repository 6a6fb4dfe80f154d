"""Any model with experts, from the config of one without."""
from typing import Callable, List, Mapping, Optional, Sequence

from mmengine.logging import print_log
from mmengine.registry import Registry
from torch import nn

from mmdet_moe.layers import moe_layers, prune
from mmdet_moe.layers.checks import fail

from .initialisation import Initialise
from .placing import Placed, table_of_experts
from .reporting import report_decisions


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
    built.init_weights = Initialise(built)
    report_decisions(built)
    return built
