"""Which anchors or regions are foreground, told to the MoE layers of a head."""
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
        # the labels (n,) of the regions of all pictures
        weigh_foreground(self.head, [targets[0][:, None]])
        return targets


def weigh_foreground(head: nn.Module, labels: Sequence[Tensor]) -> None:
    """Tell the layers of a head with ``balance_weight='foreground'`` how many
    of the priors of each position are positive.

    Args:
        head: With ``num_classes``.
        labels: For each input of the layers (B, positions x priors); (n, 1),
            of n regions. Outside of 0 to ``num_classes`` - 1 is background.
    """
    layers = [layer for layer in moe_layers(head).values()
              if layer.balance_weight == 'foreground']
    if layers:
        priors = getattr(head, 'num_base_priors', 1)
        positives = [((x >= 0) & (x < head.num_classes)).unflatten(
            1, (-1, priors)).sum(dim=-1) for x in labels]
        for layer in layers:
            layer.weigh(positives)
