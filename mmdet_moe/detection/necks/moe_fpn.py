from typing import Optional, Sequence, Union

from mmdet.models.necks import FPN
from mmdet.registry import MODELS

from mmdet_moe.layers.checks import check_subset
from mmdet_moe.models.mixtures import Mixture


@MODELS.register_module()
class MoEFPN(FPN):
    """FPN whose output or lateral convolutions are mixtures of convolutions.

    Each of these convolutions becomes a mixture with a gate and
    experts of its own (ConvMoE of Pavlitska et al. 2022, section III-A); it
    decides once per image.

    Args:
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`;
            required.
        moe_in: Which convolutions: ``'output'`` (with those of the extra
            levels), ``'lateral'``, or both.
        args, kwargs: As of FPN.

    Example:
        >>> neck = MoEFPN([64, 128], 32, num_outs=3, add_extra_convs='on_input',
        ...               moe=dict(num_experts=4, top_k=2))
        >>> c2, c3 = torch.rand(2, 64, 32, 32), torch.rand(2, 128, 16, 16)
        >>> [p.shape[-1] for p in neck((c2, c3))]
        [32, 16, 8]
    """
    dense_twin = 'FPN'
    moe_keys = ('moe', 'moe_in')
    parts = {'output': 'fpn_convs', 'lateral': 'lateral_convs'}

    def __init__(self,
                 *args,
                 moe: Optional[dict] = None,
                 moe_in: Union[str, Sequence[str]] = ('output', ),
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for part in check_subset('moe_in', moe_in, self.parts):
            for module in getattr(self, self.parts[part]):
                module.conv = Mixture(module.conv, moe, whole_pyramid=True)
