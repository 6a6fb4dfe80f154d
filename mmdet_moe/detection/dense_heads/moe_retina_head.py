from functools import partial
from typing import Dict, List, Optional, Sequence, Tuple, Union

from mmcv.cnn import ConvModule
from mmdet.models.dense_heads import RetinaHead
from mmdet.registry import MODELS
from torch import Tensor, nn

from mmdet_moe.layers import (
    BothOutcomes,
    MoELayer,
    Parallel,
    logits_of,
)
from mmdet_moe.layers.checks import (
    check_choice,
    check_keywords,
    check_subset,
    fail,
)
from mmdet_moe.layers.moe import check_moe
from mmdet_moe.models.mixtures import Mixture
from mmdet_moe.models.residual import ResidualMixture

from ..foreground import weigh_foreground

SUBNETS = ('cls', 'reg')
#: Which of the n convolutions of a subnet, the predictor being the last, are
#: mixtures of convolutions; the other places have larger experts.
CONVOLUTIONS = dict(
    first=lambda n: [0],
    last=lambda n: [n - 2],
    predictor=lambda n: [n - 1],
    every=lambda n: list(range(n)))
PLACES = ('subnet', 'tower', 'block', *CONVOLUTIONS)


@MODELS.register_module()
class MoERetinaHead(RetinaHead):
    """RetinaNet's head with mixtures of experts.

    By default an expert is a subnet: its tower of convolutions and its
    predictor. The experts are shared by the pyramid levels, the gate decides
    once per image and level (Pavlitska et al. 2022, section III-D). Layers
    without experts keep the parameter names of RetinaHead.

    Args:
        moe: Keyword arguments of :class:`~mmdet_moe.layers.MoELayer`;
            required.
        moe_in: Which subnets: ``'cls'``, ``'reg'``, or both.
        moe_at: What an expert is: the whole ``'subnet'``; its ``'tower'``,
            before a common predictor; or a convolution: the ``'first'`` or
            ``'last'`` of the tower, the ``'predictor'``, or ``'every'`` one,
            each with a gate of its own. ``'block'``: the tower is followed by
            a :class:`.ResidualMixture`, by default of feed-forward networks
            that decide about positions.
        block: Arguments of that residual mixture, beside ``moe``.
        shared_gate: One gate for both subnets rather than one each; an expert
            is then a pair of subnets.
        mix: What is mixed of the classification's predictions: the
            ``'logit'``, or the ``'prob'``, as the authors' code does.
        args, kwargs: As of RetinaHead.

    Example:
        >>> head = MoERetinaHead(11, 7, moe=dict(num_experts=4, top_k=2))
        >>> p3, p4 = torch.rand(2, 7, 32, 32), torch.rand(2, 7, 16, 16)
        >>> cls_scores, bbox_preds = head((p3, p4))
        >>> [x.shape for x in cls_scores]  # 9 anchors x 11 classes
        [torch.Size([2, 99, 32, 32]), torch.Size([2, 99, 16, 16])]
    """
    dense_twin = 'RetinaHead'
    moe_keys = ('moe', 'moe_in', 'moe_at', 'block', 'shared_gate', 'mix')

    def __init__(self,
                 *args,
                 moe: Optional[dict] = None,
                 moe_in: Union[str, Sequence[str]] = SUBNETS,
                 moe_at: str = 'subnet',
                 block: Optional[dict] = None,
                 shared_gate: bool = False,
                 mix: str = 'logit',
                 init_cfg: Union[dict, List[dict], None] = None,
                 **kwargs) -> None:
        self.moe = check_moe(moe)
        self.moe_in = check_subset('moe_in', moe_in, SUBNETS)
        self.moe_at = check_choice('moe_at', moe_at, PLACES)
        self.block = check_keywords(
            'block', {} if block is None else block, ResidualMixture,
            reserved=('in_channels', 'moe', 'options'))
        if self.block and moe_at != 'block':
            fail('block', block, "None unless moe_at='block'")
        self.shared_gate = check_choice('shared_gate', shared_gate,
                                        (False, True))
        self.mix = check_choice('mix', mix, ('logit', 'prob'))
        if shared_gate and (moe_at != 'subnet' or len(self.moe_in) < 2):
            fail('shared_gate', shared_gate,
                 "False unless moe_in=('cls', 'reg') and moe_at='subnet'")
        if mix == 'prob' and ('cls' not in self.moe_in or moe_at != 'subnet'):
            fail('mix', mix, "'logit' unless 'cls' is in moe_in and "
                 "moe_at='subnet': only there are scores mixed")
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
        if self.stacked_convs == 0 and self.moe_at in ('tower', 'first',
                                                       'last'):
            fail('moe_at', self.moe_at, "'subnet', 'predictor' or 'every' "
                 'with stacked_convs=0: there is no tower')
        if self.moe_at in CONVOLUTIONS:
            for name in self.moe_in:
                self._mix_convolutions(name)
        elif self.moe_at == 'block':
            for name in self.moe_in:
                channels = self.feat_channels if self.stacked_convs else (
                    self.in_channels)
                self.add_module(
                    f'{name}_block',
                    ResidualMixture(channels, self.moe, **self.block,
                                    whole_pyramid=True, targets=True))
        elif self.shared_gate:
            taken = {name: self._take(name) for name in SUBNETS}
            self.subnet = self._mixture(
                Parallel({name: part
                          for name, (part, _) in taken.items()}), {
                              f'{name}.{i}': dense
                              for name, (_, dense_names) in taken.items()
                              for i, dense in dense_names.items()
                          })
        else:
            for name in self.moe_in:
                self.add_module(f'{name}_{self.moe_at}',
                                self._mixture(*self._take(name)))

    def _take(self, name: str) -> Tuple[nn.Sequential, Dict[str, str]]:
        """Layers of RetinaHead as an expert, out of the head; their names."""
        tower = self._modules.pop(f'{name}_convs')
        parts = {f'{name}_convs.{i}': conv for i, conv in enumerate(tower)}
        if self.moe_at == 'subnet':
            parts[f'retina_{name}'] = self._modules.pop(f'retina_{name}')
        expert = nn.Sequential(*parts.values())
        if name == 'cls' and self.mix == 'prob':
            expert.append(BothOutcomes())
        return expert, {str(i): dense for i, dense in enumerate(parts)}

    def _mixture(self, expert: nn.Module,
                 dense_names: Optional[Dict[str, str]] = None) -> MoELayer:
        # The layer is given the whole pyramid, and told the positive anchors.
        return Mixture(
            expert,
            self.moe,
            whole_pyramid=True,
            targets=True,
            dense_names=dense_names)

    def _mix_convolutions(self, name: str) -> None:
        tower = getattr(self, f'{name}_convs')
        chosen = CONVOLUTIONS[self.moe_at](len(tower) + 1)
        for i in chosen:
            if i < len(tower):
                tower[i].conv = self._mixture(tower[i].conv)
            else:
                predictor = getattr(self, f'retina_{name}')
                setattr(self, f'retina_{name}', self._mixture(predictor))

    @property
    def cls_predictors(self) -> nn.ModuleList:
        """The last convolution of the classification subnet, of each expert."""
        last = self.subnet if self.shared_gate else self._layers('cls')[-1]
        if not isinstance(last, MoELayer):
            return nn.ModuleList([last])
        experts = [e['cls'] if self.shared_gate else e for e in last.experts]
        return nn.ModuleList(
            [m for m in e.modules() if isinstance(m, nn.Conv2d)][-1]
            for e in experts)

    def forward(self,
                x: Sequence[Tensor]) -> Tuple[List[Tensor], List[Tensor]]:
        """L features (B, C, H_l, W_l) -> L class scores, L box deltas."""
        if self.shared_gate:
            split = [
                y.tensor_split((-self.num_base_priors *
                                self.bbox_coder.encode_size, ), dim=1)
                for y in self.subnet(x)
            ]
            scores, deltas = (list(part) for part in zip(*split))
        else:
            scores, deltas = (self._run(name, x) for name in SUBNETS)
        if self.mix == 'prob':
            scores = [logits_of(y) for y in scores]
        return scores, deltas

    def _run(self, name: str, levels: Sequence[Tensor]) -> List[Tensor]:
        for layer in self._layers(name):
            # A MoE layer sees the whole pyramid, to decide on it at once.
            levels = layer(levels) if isinstance(
                layer, (MoELayer, ResidualMixture)) else [
                    layer(x) for x in levels]
        return levels

    def _layers(self, name: str) -> list:
        """The subnet as a sequence of MoE layers and of dense ones."""
        if self.shared_gate:
            return [self.subnet]
        whole = getattr(self, f'{name}_subnet', None)
        if whole is not None:
            return [whole]
        tower = getattr(self, f'{name}_tower', None)
        layers = [tower] if tower is not None else []
        for module in getattr(self, f'{name}_convs', ()):
            if isinstance(module.conv, MoELayer):
                layers += [module.conv, partial(_after_convolution, module)]
            else:
                layers.append(module)
        block = getattr(self, f'{name}_block', None)
        layers += [] if block is None else [block]
        return [*layers, getattr(self, f'retina_{name}')]

    def get_targets(self, *args, **kwargs) -> tuple:
        """As RetinaHead; positive anchors may weigh the samples."""
        targets = super().get_targets(*args, **kwargs)
        weigh_foreground(self, targets[0])  # (B, H_l * W_l * anchors)
        return targets


def _after_convolution(module: ConvModule, x: Tensor) -> Tensor:
    """What a ConvModule does once its convolution is done."""
    if module.with_norm:
        x = module.norm(x)
    return module.activate(x) if module.with_activation else x
