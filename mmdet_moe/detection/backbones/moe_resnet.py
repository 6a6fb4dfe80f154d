from typing import Optional, Sequence

from mmdet.models.backbones import ResNet
from mmdet.registry import MODELS

from mmdet_moe.layers.checks import check_choice, check_int, fail
from mmdet_moe.models.mixtures import Mixture, ShortcutMixture


@MODELS.register_module()
class MoEResNet(ResNet):
    """ResNet with mixtures of blocks, or of whole stages.

    An expert is a BasicBlock or a Bottleneck (BlockMoE of Pavlitska et al.
    2022, section III-A), or all blocks of a stage. The gate sees what the
    block or the stage takes, and decides once per image. A checkpoint of
    ResNet, as ``init_cfg=dict(type='Pretrained', ...)`` loads it, goes into
    every expert. Experts and gates of a stage that ``frozen_stages`` covers
    are frozen with it.

    Args:
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`;
            required.
        moe_stages: Which stages have experts, counted from 0.
        moe_unit: What an expert is: a ``'block'``, for every block of these
            stages, or the ``'stage'``.
        residual: Whether the input, projected where the shapes differ, is
            added to the mixture, as in the paper's residual variant. The
            identity inside each block stays.
        args, kwargs: As of ResNet.

    Example:
        >>> resnet = MoEResNet(18, moe=dict(num_experts=4), moe_unit='stage')
        >>> [x.shape[1] for x in resnet(torch.rand(2, 3, 64, 64))]
        [64, 128, 256, 512]
    """
    dense_twin = 'ResNet'
    moe_keys = ('moe', 'moe_stages', 'moe_unit', 'residual')

    def __init__(self,
                 *args,
                 moe: Optional[dict] = None,
                 moe_stages: Sequence[int] = (3, ),
                 moe_unit: str = 'block',
                 residual: bool = False,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        check_choice('moe_unit', moe_unit, ('block', 'stage'))
        check_choice('residual', residual, (False, True))
        if (not isinstance(moe_stages, (list, tuple)) or not moe_stages
                or len(set(moe_stages)) < len(moe_stages)):
            fail('moe_stages', moe_stages, 'a tuple of stages, each once')
        mixture = ShortcutMixture if residual else Mixture
        for stage in moe_stages:
            name = self.res_layers[check_int('moe_stages', stage, 0,
                                             self.num_stages - 1)]
            if moe_unit == 'stage':
                setattr(
                    self, name,
                    mixture(getattr(self, name), moe, whole_pyramid=True))
            else:
                blocks = getattr(self, name)
                for i, block in enumerate(blocks):
                    blocks[i] = mixture(block, moe, whole_pyramid=True)
        # ResNet has frozen the blocks that were there before.
        self._freeze_stages()
