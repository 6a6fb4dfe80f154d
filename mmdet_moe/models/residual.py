"""A residual mixture of experts: what can be added to a detector anywhere."""
from typing import List, Optional, Sequence, Union

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdet_moe.layers import FeedForward
from mmdet_moe.layers.checks import check_choice, check_int
from mmdet_moe.layers.moe import check_moe

from .mixtures import Mixture


def conv_expert(channels: int, hidden_channels: int) -> nn.Module:
    """3x3 convolution, ReLU, 3x3 convolution: (n, C, H, W) -> the same."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden_channels, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(hidden_channels, channels, 3, padding=1))


#: By kind, how an expert is made, and the scope that fits it.
EXPERTS = dict(
    ffn=(FeedForward, 'PositionScope'), conv=(conv_expert, 'LevelScope'))


class ResidualMixture(BaseModule):
    """``y = x + sum_e w[n, e] expert_e(norm(x))`` on feature maps.

    The norm is LayerNorm over the channels of each position, without
    parameters of its own, as the gate and the experts start with linear maps.
    With experts of positions this is the MoE block of transformers (V-MoE,
    Riquelme et al. 2021, arXiv 2106.05974), without attention.

    Args:
        in_channels: C of the maps.
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`. If it
            names no scope, a sample is a position for feed-forward networks,
            and an image at a level for convolutions.
        expert: ``'ffn'``: a feed-forward network. ``'conv'``: two 3x3
            convolutions with ReLU between them.
        hidden_channels: Of an expert; C if None.
        norm: Whether gate and experts see normalised features.
        identity_at_start: Whether the last layer of each expert starts with
            zeros, so that the block is the identity until it is trained and
            can be put into a trained detector.
        options: Those that a config cannot set, such as ``whole_pyramid``.

    Example:
        >>> block = ResidualMixture(8, moe=dict(num_experts=4, top_k=2))
        >>> p3, p4 = torch.rand(2, 8, 32, 32), torch.rand(2, 8, 16, 16)
        >>> [y.shape[-1] for y in block([p3, p4])]
        [32, 16]
    """

    def __init__(self,
                 in_channels: int,
                 moe: Optional[dict] = None,
                 *,
                 expert: str = 'ffn',
                 hidden_channels: Optional[int] = None,
                 norm: bool = True,
                 identity_at_start: bool = False,
                 init_cfg: Optional[dict] = None,
                 **options) -> None:
        super().__init__(init_cfg)
        channels = check_int('in_channels', in_channels, 1)
        hidden = channels if hidden_channels is None else check_int(
            'hidden_channels', hidden_channels, 1)
        make, scope = EXPERTS[check_choice('expert', expert, EXPERTS)]
        self.norm = check_choice('norm', norm, (False, True))
        self.identity_at_start = check_choice(
            'identity_at_start', identity_at_start, (False, True))
        # A dense detector has no such experts. As the identity they need none.
        beyond_dense = '' if identity_at_start else (
            'it adds a mixture to what the dense detector computes; use '
            'identity_at_start=True, or load the dense checkpoint with '
            'load_from')
        self.mixture = Mixture(
            make(channels, hidden),
            dict(dict(scope=dict(type=scope)), **check_moe(moe)),
            dense_names={},
            beyond_dense=beyond_dense,
            **options)
        self.start()

    def init_weights(self) -> None:
        """As ``init_cfg`` says, and as the identity if that is asked for."""
        super().init_weights()
        self.start()

    def start(self) -> None:
        """Become the identity, if that is asked for."""
        if self.identity_at_start:
            for expert in self.mixture.all_experts:
                nn.init.zeros_(expert[-1].weight)
                nn.init.zeros_(expert[-1].bias)

    def forward(self, x: Union[Tensor, Sequence[Tensor]]
                ) -> Union[Tensor, List[Tensor]]:
        """Maps (B, C, H, W), or a sequence of them -> the same shapes."""
        levels = [x] if isinstance(x, Tensor) else list(x)
        seen = [_normalised(level) for level in levels] if self.norm else levels
        refined = [a + b for a, b in zip(levels, self.mixture(seen))]
        return refined[0] if isinstance(x, Tensor) else refined


def _normalised(x: Tensor) -> Tensor:
    """LayerNorm over the channels of (B, C, H, W), which is channels_last
    then."""
    return F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1)
