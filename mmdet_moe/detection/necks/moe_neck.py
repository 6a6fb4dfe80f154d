from typing import Optional, Sequence, Tuple

from mmdet.registry import MODELS
from torch import Tensor

from mmdet_moe.models.residual import ResidualMixture


@MODELS.register_module()
class MoENeck(ResidualMixture):
    """A residual mixture of experts on each level of a pyramid.

    ``y_l = x_l + sum_e w[n, e] expert_e(norm(x_l))``: the levels share the
    experts and the gate. It follows any neck whose levels have the same number
    of channels:
    ``neck=[dict(type='FPN', ...), dict(type='MoENeck', ...)]``.

    Args:
        in_channels, moe, hidden_channels, norm, identity_at_start: As of
            :class:`.ResidualMixture`.
        expert: ``'conv'``: two 3x3 convolutions, and by default a decision
            for each image and level. ``'ffn'``: a feed-forward network, and a
            decision for each position.

    Example:
        >>> neck = MoENeck(8, moe=dict(num_experts=4, top_k=2))
        >>> p3, p4 = torch.rand(2, 8, 32, 32), torch.rand(2, 8, 16, 16)
        >>> [p.shape[-1] for p in neck((p3, p4))]
        [32, 16]
    """

    dense_twin = None  # it only adds
    moe_keys = ()

    def __init__(self,
                 in_channels: int,
                 moe: Optional[dict] = None,
                 expert: str = 'conv',
                 hidden_channels: Optional[int] = None,
                 norm: bool = True,
                 identity_at_start: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(
            in_channels,
            moe,
            expert=expert,
            hidden_channels=hidden_channels,
            norm=norm,
            identity_at_start=identity_at_start,
            init_cfg=init_cfg,
            whole_pyramid=True)

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """L features (B, C, H_l, W_l) -> as many of the same shapes."""
        return tuple(super().forward(inputs))
