"""ConvMoE: a convolution layer of MMCV's whose experts are convolutions."""
import inspect
from functools import partial

from mmengine.model import kaiming_init
from mmengine.registry import MODELS
from torch import nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import fail
from mmdet_moe.layers.moe import check_moe


@MODELS.register_module()
class MoEConv(MoELayer):
    """A sparse mixture of 2D convolutions, for ``conv_cfg`` and on its own.

    ``conv_cfg=dict(type='MoEConv', num_experts=4, top_k=2)`` puts it wherever
    a model builds its convolutions through MMCV.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation,
            groups, bias: As of ``nn.Conv2d``, for each expert.
        whole_pyramid: Whether the layer is called with all levels at once, by
            a head that knows its targets. A ``conv_cfg`` is called level by
            level and knows nothing, so a scope of all levels and
            ``balance_weight='foreground'`` are refused there.
        moe: Keyword arguments of :class:`MoELayer`.
    """
    dense_twin = 'Conv2d'
    moe_keys = ('whole_pyramid', *(
        inspect.signature(MoELayer).parameters.keys() -
        {'expert', 'in_channels'}))

    def __init__(self,
                 in_channels,
                 out_channels,
                 kernel_size,
                 stride=1,
                 padding=0,
                 dilation=1,
                 groups=1,
                 bias=True,
                 whole_pyramid=False,
                 **moe) -> None:
        expert = partial(
            nn.Conv2d,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias)
        super().__init__(expert, in_channels,
                         **check_moe(moe, targets=whole_pyramid))
        if not (self.scope.repeatable or whole_pyramid):
            fail('scope', self.scope, "dict(type='LevelScope') or "
                 "dict(type='PatchScope') in a conv_cfg, which sees one level "
                 'at a time')
        for conv in self.experts:  # as ConvModule does with a convolution
            kaiming_init(conv, nonlinearity='relu')
        # What mmcv's ConvModule reads off its convolution.
        like = self.experts[0]
        for name in ('out_channels', 'kernel_size', 'stride', 'padding',
                     'dilation', 'groups', 'transposed', 'output_padding'):
            setattr(self, name, getattr(like, name))

    @classmethod
    def like(cls, conv: nn.Conv2d, moe: dict) -> 'MoEConv':
        """Experts of the shape of ``conv``, with new parameters."""
        if type(conv) is not nn.Conv2d:
            fail('conv_cfg', type(conv).__name__,
                 'Conv2d where the experts are convolutions')
        return cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            bias=conv.bias is not None,
            whole_pyramid=True,
            **moe)
