"""FLOPs of what runs, against numbers worked out by hand."""
import sys

import needs
import torch
from mmcv.ops import DeformConv2dPack, nms
from torch import nn

from mmdet_moe.analysis.flop_counter import count_flops
from mmdet_moe.layers import FeedForward, MoELayer
from mmdet_moe.layers.dispatch import DISPATCHES

#: A 3x3 convolution of 8 to 8 channels on 16 x 16, 2 for each multiply-add.
CONV = 2 * 8 * 8 * 9 * 16 * 16
#: GAPFCGate for a sample: 8 channels to 4 experts.
GATE = 2 * 8 * 4


def conv():
    return nn.Conv2d(8, 8, 3, padding=1)


def flops(module, *args):
    return count_flops(lambda: module.eval()(*args), {}).total


def test_k_experts_of_the_same_work_cost_k_times_the_dense_subnet():
    def subnet():
        return nn.Sequential(conv(), nn.ReLU(), conv())

    x = torch.rand(1, 8, 16, 16)
    assert flops(subnet(), x) == 2 * CONV
    for k in (1, 2, 3):
        layer = MoELayer(subnet, 8, num_experts=4, top_k=k)
        assert flops(layer, x) == k * 2 * CONV + GATE
    layer.dispatch = DISPATCHES['dense']
    assert flops(layer, x) == 4 * 2 * CONV + GATE


def test_each_sample_counts_with_the_size_of_its_map():
    layer = MoELayer(
        lambda: nn.Sequential(conv(), nn.ReLU()), 8, num_experts=4, top_k=2)
    pyramid = [torch.rand(3, 8, 16, 16), torch.rand(3, 8, 8, 8)]
    assert flops(layer, pyramid) == 3 * 2 * (CONV + CONV // 4) + 6 * GATE


@needs.grouped_products
def test_grouped_products_count_as_those_of_the_experts():
    layer = MoELayer(lambda: FeedForward(8, 16), 8, num_experts=4, top_k=2,
                     scope=dict(type='PositionScope'))
    x = torch.rand(1, 8, 16, 16)
    expert = 16 * 16 * 2 * (8 * 16 + 16 * 8)
    assert flops(layer, x) == 2 * expert + 16 * 16 * GATE
    layer.dispatch = DISPATCHES['grouped']
    assert flops(layer, x) == 2 * expert + 16 * 16 * GATE


def test_merged_convolutions_count_as_the_one_that_runs():
    layer = MoELayer(conv, 8, num_experts=4, top_k=2)
    # One convolution, and the kernels and biases of 2 experts added up.
    blend = 2 * 2 * (8 * 8 * 9 + 8)
    assert flops(layer, torch.rand(1, 8, 16, 16)) == CONV + blend + GATE
    layer.dispatch = DISPATCHES['dense']
    assert flops(layer, torch.rand(1, 8, 16, 16)) == 4 * CONV + GATE


def test_attention_counts_however_it_is_computed():
    attention = nn.MultiheadAttention(8, num_heads=2, batch_first=True)
    x = torch.rand(1, 5, 8)
    # 4 projections of 5 tokens; scores and values of 5 x 5 pairs.
    hand_worked = 4 * 2 * 5 * 8 * 8 + 2 * 2 * 5 * 5 * 8
    mha = getattr(torch.backends, 'mha', None)  # since PyTorch 2.2
    fast = mha and mha.get_fastpath_enabled()
    for need_weights in (True, False):
        assert flops(attention, x, x, x, None, need_weights) == hand_worked
    assert mha is None or mha.get_fastpath_enabled() == fast


def test_deformable_convolutions_count_as_convolutions():
    deformable = DeformConv2dPack(8, 8, 3, padding=1)
    # Of 8 to 8 channels, and to the 18 offsets.
    assert flops(deformable, torch.rand(1, 8, 16, 16)) == CONV * 26 // 8


def test_what_runs_in_two_parts_belongs_to_the_outer_one():
    inner = conv()
    outer = nn.Sequential(conv(), inner)
    x = torch.rand(1, 8, 16, 16)

    def run():
        inner(outer(x))
        nn.functional.conv2d(x, inner.weight)

    count = count_flops(run, {inner: 'b', outer: 'a', outer[0]: 'a'})
    assert count.by_part == dict(a=2 * CONV, b=CONV)
    assert count.total == 3 * CONV + CONV // 16**2 * 14**2


def test_operators_that_are_not_counted_are_named():
    before = sys.getprofile()
    boxes = torch.tensor([[0., 0., 8., 8.], [0., 0., 8., 9.]])
    count = count_flops(
        lambda: nms(boxes.relu() @ torch.eye(4), torch.rand(2).sort()[0], .5),
        {})
    assert count.not_counted[0] == 'mmcv.nms'
    assert 'aten.sort' in count.not_counted
    assert not {'aten.mm', 'aten.relu'} & set(count.not_counted)
    assert sys.getprofile() is before
