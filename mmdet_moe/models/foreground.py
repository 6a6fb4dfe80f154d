"""Which regions of a second stage are foreground, told to its MoE layers."""
from typing import Sequence

from mmdet.models.roi_heads.bbox_heads import BBoxHead
from torch import Tensor, nn

from mmdet_moe.layers import moe_layers


def knows_foreground(model: nn.Module, names: Sequence[str]) -> bool:
    """Whether a module is a part of a box head, which assigns its regions.

    Args:
        model: A detector.
        names: All names under which it has the module.
    """
    return any(
        isinstance(model.get_submodule('.'.join(parts[:i])), BBoxHead)
        for parts in (name.split('.') for name in names)
        for i in range(1, len(parts)))


def tell_foreground(model: nn.Module) -> None:
    """Have box heads tell their layers with ``balance_weight='foreground'``
    which regions are positive, from now on."""
    for head in model.modules():
        if isinstance(head, BBoxHead) and any(
                layer.balance_weight == 'foreground'
                for layer in moe_layers(head).values()):
            head.get_targets = _TellingTargets(head)


class _TellingTargets:
    """In the place of a box head's ``get_targets``, which comes after its
    forward pass. As an object that holds the head it is copied with it."""

    def __init__(self, head: BBoxHead) -> None:
        self.head = head

    def __call__(self, *args, **kwargs) -> tuple:
        targets = type(self.head).get_targets(self.head, *args, **kwargs)
        labels: Tensor = targets[0]  # (n,), of the regions of all pictures
        positive = ((labels >= 0) & (labels < self.head.num_classes)).float()
        for layer in moe_layers(self.head).values():
            if layer.balance_weight == 'foreground':
                layer.weigh([positive[:, None]])
        return targets
