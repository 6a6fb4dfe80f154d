from functools import partial
from typing import Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmdet_moe.layers import MoELayer, fresh_copy
from mmdet_moe.layers.checks import check_subset
from mmdet_moe.layers.moe import check_moe

from .levels import assigned_levels, predict_with_levels


@MODELS.register_module()
class MoERetinaHead(RetinaHead):
    """RetinaNet's head with a mixture of whole subnets.

    An expert is a subnet: its tower of convolutions and its predictor. The
    experts are shared by the pyramid levels, the gate decides once per image
    and level (Pavlitska et al. 2022, section III-D). A subnet without
    experts keeps the layers and the parameter names of RetinaHead.

    In prediction it reports who did what: ``data_sample.expert_weights``
    has a row for each level, with the weights of ``cls`` and ``reg`` (L, E);
    ``pred_instances`` gets ``level_ids`` (n,) and ``cls_expert_weights``,
    ``reg_expert_weights`` (n, E), kept through NMS; and where the pipeline
    loads annotations ``gt_instances`` gets ``level_ids``, the level of the
    best of the anchors that the training assigner gives to an object (-1 if
    it gives none).

    Args:
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`;
            required.
        moe_in: Which subnets: ``'cls'``, ``'reg'``, or both with a gate each.
        args, kwargs: As of RetinaHead.

    Example:
        >>> head = MoERetinaHead(11, 7, moe=dict(num_experts=4, top_k=2))
        >>> p3, p4 = torch.rand(2, 7, 32, 32), torch.rand(2, 7, 16, 16)
        >>> cls_scores, bbox_preds = head((p3, p4))
        >>> [x.shape for x in cls_scores]  # 9 anchors x 11 classes
        [torch.Size([2, 99, 32, 32]), torch.Size([2, 99, 16, 16])]
    """

    def __init__(self,
                 *args,
                 moe: Optional[dict] = None,
                 moe_in: Union[str, Sequence[str]] = ('cls', 'reg'),
                 init_cfg: Union[dict, List[dict], None] = None,
                 **kwargs) -> None:
        self.moe = check_moe(moe)
        self.moe_in = check_subset('moe_in', moe_in, ('cls', 'reg'))
        if init_cfg is None:
            # RetinaHead's, with the prior of the focal loss for all experts.
            init_cfg = dict(
                type='Normal',
                layer='Conv2d',
                std=0.01,
                override=dict(
                    type='Normal',
                    name='cls_predictors',
                    std=0.01,
                    bias_prob=0.01))
        super().__init__(*args, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        for name in self.moe_in:
            tower = self._modules.pop(f'{name}_convs')
            predictor = self._modules.pop(f'retina_{name}')
            subnet = nn.Sequential(*tower, predictor)
            self.add_module(
                f'{name}_subnet',
                MoELayer(
                    partial(fresh_copy, subnet), self.in_channels, **self.moe))

    @property
    def moe_subnets(self) -> Dict[str, MoELayer]:
        """The subnets that have experts, ``'cls'`` and ``'reg'``."""
        return {
            name: getattr(self, f'{name}_subnet')
            for name in self.moe_in
        }

    @property
    def cls_predictors(self) -> nn.ModuleList:
        """The last convolution of the classification subnet, of each expert."""
        if 'cls' in self.moe_in:
            return nn.ModuleList(e[-1] for e in self.cls_subnet.experts)
        return nn.ModuleList([self.retina_cls])

    def forward(self,
                x: Sequence[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """L features (B, C, H_l, W_l) -> L class scores, L box deltas."""
        return self._subnet('cls', x), self._subnet('reg', x)

    def _subnet(self, name: str, levels: Sequence[Tensor]) -> List[Tensor]:
        if name in self.moe_in:
            return getattr(self, f'{name}_subnet')(levels)
        subnet = nn.Sequential(*getattr(self, f'{name}_convs'),
                               getattr(self, f'retina_{name}'))
        return [subnet(level) for level in levels]

    def predict(self,
                x: Sequence[Tensor],
                batch_data_samples: list,
                rescale: bool = False) -> List[InstanceData]:
        """As RetinaHead, with experts and levels reported (see above)."""
        predictions = super().predict(x, batch_data_samples, rescale)
        weights = {  # (L, B, E) each
            name: torch.stack([
                part.weights for part in layer.routing.split(len(x[0]))
            ])
            for name, layer in self.moe_subnets.items()
        }
        for b, (sample, prediction) in enumerate(
                zip(batch_data_samples, predictions)):
            sample.expert_weights = InstanceData(
                **{name: w[:, b]
                   for name, w in weights.items()})
            for name, w in weights.items():
                prediction.set_field(w[prediction.level_ids, b],
                                     f'{name}_expert_weights')
            if 'gt_instances' in sample and hasattr(self, 'assigner'):
                sample.gt_instances.level_ids = assigned_levels(
                    self, x, sample)
        return predictions

    def _predict_by_feat_single(self, *args, **kwargs) -> InstanceData:
        return predict_with_levels(self, super()._predict_by_feat_single,
                                   *args, **kwargs)
