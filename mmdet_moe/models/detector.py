"""Any detector with experts, from its stock config."""
import copy
from operator import itemgetter
from typing import List, Mapping, Optional, Sequence

from mmdet.registry import MODELS
from mmengine.logging import print_log
from mmengine.model import initialize
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

from mmdet_moe.layers import moe_layers, prune
from mmdet_moe.layers.checks import fail

from .placing import add_experts, table_of_experts
from .reporting import report_decisions
from .residual import ResidualMixture


@MODELS.register_module(name='MoEDetector')
def build_moe_detector(*,
                       detector: str = '',
                       experts: Sequence[dict] = (),
                       pruned: Optional[Mapping[str, Sequence[int]]] = None,
                       **model) -> nn.Module:
    """Build a detector of MMDetection with experts in it.

    The result is an instance of the detector's own class, so everything that
    works with it still does. It reports who decided about its detections, see
    :class:`.DecisionReporter`.

    Where its ``init_cfg`` has an initialiser that sets the whole model, one
    with an attribute ``sets_whole_model``, nothing else is initialised:
    several detectors would draw encoder and decoder anew after it.

    Args:
        detector: Type of the detector, such as ``'FasterRCNN'``.
        experts: Where experts are in it, as :func:`.add_experts` takes it.
            May be empty where the config has MoE layers elsewhere, as in a
            ``conv_cfg``.
        pruned: By the name of a MoE layer the experts that stay in it, out of
            those that it is built with; see :func:`~mmdet_moe.layers.prune`.
        model: The arguments of that detector.

    Raises:
        ValueError: There is no such detector, it would have no experts, or
            see :func:`.add_experts`.

    Example, over a stock config:
        >>> model = dict(
        ...     type='MoEDetector', detector='FasterRCNN', experts=[
        ...         dict(at='roi_head.bbox_head.shared_fcs.1', num_experts=4)])
    """
    if not isinstance(detector, str) or not detector:
        fail('model.detector', detector,
             "the type that the stock config has, such as 'FasterRCNN'")
    built = MODELS.build(dict(model, type=detector))
    done = add_experts(built, experts)
    if not moe_layers(built):
        fail('model.experts', list(experts),
             'at least one, as no other part of the model has experts')
    for name, keep in (pruned or {}).items():
        if name not in moe_layers(built):
            fail('model.pruned', name, 'a MoE layer of the model; there are ' +
                 ', '.join(moe_layers(built)))
        prune(moe_layers(built)[name], keep, f'model.pruned, {name}: keep')
    if done:
        print_log(table_of_experts(done), 'current')
    built.init_weights = _Initialise(built)
    report_decisions(built)
    return built


#: How to get the config of the detector without experts; see
#: :func:`mmdet_moe.conversion.dense_twin.dense_twin`.
build_moe_detector.dense_twin = itemgetter('detector')
build_moe_detector.moe_keys = ('detector', 'experts', 'pruned')


class _Initialise:
    """In the place of a detector's ``init_weights``.

    It keeps what has its own weights out of that. A detector may draw all
    parameters of a decoder anew, and the gates' have their own scale; a gate
    that is loaded from a checkpoint is left as it is. So are mixtures that
    start as the identity. And an initialiser of the whole model has the last
    word.

    As an object that holds the detector it is copied with it.
    """

    def __init__(self, detector: nn.Module) -> None:
        self.detector = detector

    def __call__(self) -> None:
        detector = self.detector
        whole = _of_the_whole_model(detector.init_cfg)
        if whole:
            initialize(detector, whole)
            detector.is_init = True
            return
        own = [layer.gate for layer in moe_layers(detector).values()]
        own += [
            block.mixture for block in detector.modules()
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
        type(detector).init_weights(detector)
        for handle in handles:
            handle.remove()
        for i, part in enumerate(own):
            if i not in loaded:
                part.load_state_dict(drawn[i])


def _of_the_whole_model(init_cfg) -> List[dict]:
    """Those of a detector's initialisers that leave nothing to the others."""
    init_cfg = [init_cfg] if isinstance(init_cfg, dict) else init_cfg or []
    return [
        cfg for cfg in init_cfg
        if getattr(_initialiser(cfg['type']), 'sets_whole_model', False)
    ]


def _initialiser(name):
    return WEIGHT_INITIALIZERS.get(name) if isinstance(name, str) else name
