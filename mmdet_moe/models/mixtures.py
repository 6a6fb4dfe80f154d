"""Mixtures of what a dense model has: a layer, a block, a network."""
import copy
import inspect
from functools import partial
from typing import Any, Dict, Optional

from mmengine.model import kaiming_init
from mmengine.registry import MODELS
from torch import Tensor, nn

from mmdet_moe.layers import MoELayer, fresh_copy
from mmdet_moe.layers.checks import fail
from mmdet_moe.layers.moe import NOT_IN_CONFIGS, check_moe

#: Attributes of a layer that stay with its mixture.
_SHAPE = ('out_channels', 'kernel_size', 'stride', 'padding', 'dilation',
          'groups', 'transposed', 'output_padding', 'in_features',
          'out_features')


def shape_of(module: nn.Module) -> Dict[str, Any]:
    """What a caller may read off a layer that becomes a mixture."""
    return {
        name: getattr(module, name)
        for name in _SHAPE if hasattr(module, name)
    }


class Mixture(MoELayer):
    """A mixture of experts that are like a module of a dense model.

    The experts have the module's architecture and new parameters. Whether a
    sample is a picture at a level or a row follows from the module: what
    starts with a fully connected layer has its channels on the last axis, and
    each row, a region or a query, is a sample of its own. A checkpoint of the
    dense model, as ``init_cfg=dict(type='Pretrained', ...)`` loads it, goes
    into every expert; a shared expert keeps what it was initialised with.

    Args:
        module: What an expert is like: it takes one tensor and returns one.
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`.
        options: Those that a config cannot set, such as ``whole_pyramid``.

    Raises:
        ValueError: The module has no layer that tells its channels.
    """

    def __init__(self, module: nn.Module, moe: Optional[dict],
                 **options) -> None:
        first = first_layer(module)
        if first is None:
            fail('expert', type(module).__name__,
                 'a module that starts with a convolution or a fully '
                 'connected layer')
        rows = isinstance(first, nn.Linear)
        moe = dict(check_moe(moe))
        if rows:
            moe.setdefault('scope', dict(type='RowScope'))
        super().__init__(
            partial(fresh_copy, module),
            first.in_features if rows else first.in_channels,
            **dict(dict(whole_pyramid=False, targets=False), **options),
            **moe)
        if rows and not self.scope.sees_rows or not rows and self.scope.rows:
            fail('moe.scope', self.scope,
                 "dict(type='RowScope')" if rows else 'a scope of maps')
        for name, value in shape_of(module).items():
            setattr(self, name, value)
        if not self.dense_names:
            self._register_load_state_dict_pre_hook(self._copy_dense)

    def _copy_dense(self, state: dict, prefix: str, *_) -> None:
        """Give every expert what a dense checkpoint has for the module."""
        if any(key.startswith(f'{prefix}experts.') for key in state):
            return
        for part in self.experts[0].state_dict():
            value = state.pop(prefix + part, None)
            if value is not None:
                for e in range(self.num_experts):
                    state[f'{prefix}experts.{e}.{part}'] = value

    def init_weights(self) -> None:
        """Initialise the experts as MMEngine would the dense module."""
        for expert in self.all_experts:
            if hasattr(expert, 'init_weights'):
                expert.init_weights()


class ShortcutMixture(Mixture):
    """The mixture plus its input, the residual variant of the paper.

    A 1x1 convolution and a norm project the input where the module changes
    channels or size, like the ``downsample`` of a ResNet's block.

    Args:
        module, moe, options: As of :class:`Mixture`.

    Raises:
        ValueError: The module changes the channels, and has no ``downsample``.
    """

    def __init__(self, module: nn.Module, moe: Optional[dict],
                 **options) -> None:
        super().__init__(
            module,
            moe,
            beyond_dense='residual=True adds the input to the mixture; use '
            'residual=False',
            **options)
        self.projection = _projection(module)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.projection(x)


class IdentityMixture(Mixture):
    """A mixture of blocks that add an identity to their result.

    MMCV's ``FFN`` adds its input, or what its caller hands over beside it:
    the features before a norm. The experts add nothing, and the identity is
    added once to their mixture, whose weights sum to 1.

    Args:
        module, moe, options: As of :class:`Mixture`; see
            :func:`adds_identity`.
    """

    def __init__(self, module: nn.Module, moe: Optional[dict],
                 **options) -> None:
        expert = copy.deepcopy(module)
        expert.add_identity = False
        super().__init__(expert, moe, **options)
        self.add_identity = module.add_identity

    def forward(self, x: Tensor, identity: Optional[Tensor] = None) -> Tensor:
        mixture = super().forward(x)
        if not self.add_identity:
            return mixture
        return (x if identity is None else identity) + mixture


def adds_identity(module: nn.Module) -> bool:
    """Whether a block adds an identity that its caller may hand over, unless
    its attribute ``add_identity`` is false."""
    return hasattr(module, 'add_identity') and (
        'identity' in inspect.signature(module.forward).parameters)


def mixture_of(module: nn.Module, moe: dict, *, residual: bool = False,
               **options) -> Mixture:
    """The mixture that takes the place of a module.

    Args:
        module, moe, options: As of :class:`Mixture`.
        residual: Whether the input is added to the mixture.

    Raises:
        ValueError: The module has an option for it, or see :class:`Mixture`.
    """
    if not adds_identity(module):
        return (ShortcutMixture if residual else Mixture)(
            module, moe, **options)
    if residual:
        fail('residual', True, f'False for a {type(module).__name__}, which '
             'has an option add_identity of its own')
    return IdentityMixture(module, moe, **options)


def _projection(module: nn.Module) -> nn.Module:
    first = module[0] if isinstance(module, nn.Sequential) else module
    downsample = getattr(first, 'downsample', None)
    if downsample is not None:
        return fresh_copy(downsample)
    taken, returned = (layer.weight.shape[1 - i] for i, layer in enumerate((
        first_layer(module), last_layer(module))))
    if taken != returned:
        fail('residual', True, f'False for a {type(module).__name__}, which '
             f'takes {taken} channels and returns {returned}')
    return nn.Identity()


def last_layer(module: nn.Module) -> Optional[nn.Module]:
    """The last convolution or fully connected layer of a module."""
    layers = [m for m in module.modules()
              if isinstance(m, (nn.Conv2d, nn.Linear))]
    return layers[-1] if layers else None


def first_layer(module: nn.Module) -> Optional[nn.Module]:
    """The first convolution or fully connected layer of a module."""
    layers = (m for m in module.modules()
              if isinstance(m, (nn.Conv2d, nn.Linear)))
    return next(layers, None)


#: What a ``conv_cfg`` and the like can set, beside the layer's own arguments.
MOE_KEYS = tuple(
    inspect.signature(MoELayer).parameters.keys() - set(NOT_IN_CONFIGS))


@MODELS.register_module()
class MoEConv(Mixture):
    """A sparse mixture of 2D convolutions, for ``conv_cfg`` and on its own.

    ``conv_cfg=dict(type='MoEConv', num_experts=4, top_k=2)`` puts it wherever
    a model builds its convolutions through MMCV (ConvMoE of Pavlitska et al.
    2022, section III-A). It is called level by level and knows no targets, so
    a scope of all levels and ``balance_weight='foreground'`` are refused.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation,
            groups, bias: As of ``nn.Conv2d``, for each expert.
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`.
    """
    dense_twin = 'Conv2d'
    moe_keys = MOE_KEYS

    def __init__(self,
                 in_channels,
                 out_channels,
                 kernel_size,
                 stride=1,
                 padding=0,
                 dilation=1,
                 groups=1,
                 bias=True,
                 **moe) -> None:
        super().__init__(
            nn.Conv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=groups,
                bias=bias), moe)
        for conv in self.all_experts:  # as ConvModule does with a convolution
            kaiming_init(conv, nonlinearity='relu')


@MODELS.register_module()
class MoELinear(Mixture):
    """A sparse mixture of fully connected layers; each row is a sample.

    ``cls_predictor_cfg=dict(type='MoELinear', num_experts=4, top_k=2)`` puts
    it into the second stage of a detector, where a row is a region.

    Args:
        in_features, out_features, bias: As of ``nn.Linear``, for each expert.
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`.
    """
    dense_twin = 'Linear'
    moe_keys = MOE_KEYS

    def __init__(self, in_features, out_features, bias=True, **moe) -> None:
        super().__init__(nn.Linear(in_features, out_features, bias=bias), moe)
