from typing import Optional, Sequence, Tuple

from mmdet.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_moe.layers.checks import check_choice, check_int
from mmdet_moe.models.mixtures import Mixture


@MODELS.register_module()
class MoENeck(BaseModule):
    """A residual mixture of experts on each level of a pyramid.

    ``y_l = x_l + sum_e w[n, e] expert_e(x_l)``: the levels share the experts
    and the gate, which decides once per image and level. It follows any neck
    whose levels have the same number of channels:
    ``neck=[dict(type='FPN', ...), dict(type='MoENeck', ...)]``.

    An expert is a 3x3 convolution, ReLU, and another 3x3 convolution.

    Args:
        in_channels: C, channels of every level.
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`.
        hidden_channels: Channels between the two convolutions; C if None.
        identity_at_start: Whether the last convolution of each expert starts
            with zeros, so that the neck is the identity until it is trained
            and can be put into a trained detector.

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
                 hidden_channels: Optional[int] = None,
                 identity_at_start: bool = False,
                 init_cfg: Optional[dict] = None) -> None:
        super().__init__(init_cfg)
        hidden = in_channels if hidden_channels is None else check_int(
            'hidden_channels', hidden_channels, 1)
        self.identity_at_start = check_choice(
            'identity_at_start', identity_at_start, (False, True))
        self.mixture = Mixture(
            nn.Sequential(
                nn.Conv2d(check_int('in_channels', in_channels, 1), hidden, 3,
                          padding=1), nn.ReLU(),
                nn.Conv2d(hidden, in_channels, 3, padding=1)),
            moe,
            whole_pyramid=True,
            beyond_dense='MoENeck adds a mixture to a pyramid that the dense '
            'detector uses as it is; load its checkpoint with load_from')
        self._start()

    def init_weights(self) -> None:
        """As ``init_cfg`` says, and as the identity if that is asked for."""
        super().init_weights()
        self._start()

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """L features (B, C, H_l, W_l) -> as many of the same shapes."""
        return tuple(x + y for x, y in zip(inputs, self.mixture(list(inputs))))

    def _start(self) -> None:
        if self.identity_at_start:
            for expert in self.mixture.experts:
                nn.init.zeros_(expert[-1].weight)
                nn.init.zeros_(expert[-1].bias)
