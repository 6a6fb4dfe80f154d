"""Any classifier with experts, from its stock config."""
from operator import itemgetter
from typing import Mapping, Optional, Sequence

from mmpretrain.registry import MODELS
from torch import nn

from mmdet_moe.models.building import build_with_experts
from mmdet_moe.models.placing import add_experts


@MODELS.register_module(name='MoEClassifier')
def build_moe_classifier(*,
                         classifier: str = '',
                         experts: Sequence[dict] = (),
                         pruned: Optional[Mapping[str, Sequence[int]]] = None,
                         **model) -> nn.Module:
    """Build a classifier of MMPretrain with experts in it.

    The result is an instance of the classifier's own class. It reports who
    decided about its pictures, see :class:`.DecisionReporter`.

    Args:
        classifier: Type of the classifier, such as ``'ImageClassifier'``.
        experts: Where experts are in it, as :func:`.add_experts` takes it.
        pruned: By the name of a MoE layer the experts that stay in it.
        model: The arguments of that classifier.

    Raises:
        ValueError: There is no such classifier, it would have no experts, or
            see :func:`.add_experts`.

    Example, a block of the last stage of a ResNet:
        >>> model = dict(
        ...     type='MoEClassifier', classifier='ImageClassifier', experts=[
        ...         dict(at='backbone.layer4.1', num_experts=4, top_k=2)])
    """
    return build_with_experts(
        MODELS, 'classifier', classifier, model, experts=experts,
        pruned=pruned, add=add_experts, example='ImageClassifier')


build_moe_classifier.dense_twin = itemgetter('classifier')
build_moe_classifier.moe_keys = ('classifier', 'experts', 'pruned')
