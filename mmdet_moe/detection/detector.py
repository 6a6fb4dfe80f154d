"""Any detector with experts, from its stock config."""
from operator import itemgetter
from typing import List, Mapping, Optional, Sequence

from mmdet.registry import MODELS
from torch import nn

from mmdet_moe.models import placing
from mmdet_moe.models.building import build_with_experts
from mmdet_moe.models.placing import Placed

from .foreground import knows_foreground, tell_foreground
from .region_domains import label_region_domains


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
    return build_with_experts(
        MODELS, 'detector', detector, model, experts=experts, pruned=pruned,
        add=add_experts, example='FasterRCNN')


def add_experts(detector: nn.Module,
                experts: Sequence[Mapping]) -> List[Placed]:
    """As :func:`.placing.add_experts`; box heads know what is foreground, and
    the domain of each region."""
    placed = placing.add_experts(detector, experts, knows_foreground)
    tell_foreground(detector)
    label_region_domains(detector)
    return placed


#: How to get the config of the detector without experts; see
#: :func:`mmdet_moe.conversion.dense_twin.dense_twin`.
build_moe_detector.dense_twin = itemgetter('detector')
build_moe_detector.moe_keys = ('detector', 'experts', 'pruned')
