"""Random configurations: valid ones train, invalid ones name the key."""
import copy
import io

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmdet_moe.detection import MoEFPN, MoEResNet, MoERetinaHead
from mmdet_moe.layers import moe_layers
from mmdet_moe.models import MoEConv

#: How many are drawn; the long form draws others each time.
NUMBERS = pytest.mark.parametrize(
    'number', [200, pytest.param(3000, marks=pytest.mark.slow)])
STATIC = ('EqualGate', 'SingleExpertGate')
PARTS = ('conv', 'fpn', 'resnet', 'head')


@st.composite
def moe_options(draw, part):
    """A valid ``moe`` for a part of a detector."""
    pick = lambda *choices: draw(st.sampled_from(choices))  # noqa: E731
    experts = draw(st.integers(1, 6))
    options = dict(
        num_experts=experts,
        top_k=draw(st.integers(1, experts)),
        balance_over=pick('step', 'call'),
        balance_weight=pick('sample', 'area',
                            *(('foreground', ) if part == 'head' else ())),
        dispatch=pick('sparse', 'dense'))
    gate = pick('GAPFCGate', 'ConvGAPGate', 'TwoConvGAPGate', *STATIC)
    options['gate'] = dict(type=gate)
    if gate == 'SingleExpertGate':
        options['gate']['expert'] = draw(st.integers(0, experts - 1))
    if gate in ('ConvGAPGate', 'TwoConvGAPGate') and draw(st.booleans()):
        options['gate']['hidden_channels'] = draw(st.integers(1, 9))
    if part != 'resnet':
        options['scope'] = pick(
            dict(type='LevelScope'),
            dict(type='PatchScope', grid=draw(st.integers(1, 4))),
            *((dict(type='ImageScope'), ) if part != 'conv' else ()))
    if gate in STATIC:
        return options
    options['noise'] = draw(st.booleans())
    kinds = ['SwitchLoss', 'EntropyLoss', 'RouterZLoss']
    if options['top_k'] > 1 or experts == 1:
        kinds += ['ImportanceLoss', 'KLLoss', 'VarianceLoss']
    if options['noise'] and options['top_k'] < experts:
        kinds.append('LoadLoss')
    options['soft_constraint'] = [
        dict(type=kind, weight=draw(st.floats(0, 2)))
        for kind in draw(st.lists(st.sampled_from(kinds), unique=True))
    ]
    if options['top_k'] < experts and draw(st.booleans()):
        options['hard_constraint'] = dict(
            type=pick('RelativeImportance', 'MeanImportance'),
            threshold=draw(st.floats(0, 0.49)),
            lift_at=pick(None, dict(epoch=1), dict(iter=1)),
            paper_per_call=draw(st.booleans())
            and options['balance_weight'] != 'foreground')
    return options


@st.composite
def configurations(draw):
    """(part of a detector, its keyword arguments)."""
    part = draw(st.sampled_from(PARTS))
    moe = draw(moe_options(part))
    if part == 'conv':
        return part, moe
    if part == 'fpn':
        return part, dict(
            moe=moe,
            moe_in=draw(st.sampled_from(['output', 'lateral',
                                         ('lateral', 'output')])))
    if part == 'resnet':
        return part, dict(
            moe=moe,
            moe_stages=draw(st.sampled_from([(0, ), (1, 3), (3, )])),
            moe_unit=draw(st.sampled_from(['block', 'stage'])),
            residual=draw(st.booleans()))
    place = draw(st.sampled_from(
        ['subnet', 'tower', 'first', 'last', 'predictor', 'every']))
    subnets = draw(st.sampled_from([('cls', ), ('reg', ), ('cls', 'reg')]))
    whole = place == 'subnet'
    return part, dict(
        moe=moe,
        moe_in=subnets,
        moe_at=place,
        shared_gate=whole and len(subnets) == 2 and draw(st.booleans()),
        mix='prob' if whole and 'cls' in subnets and draw(st.booleans()) else
        'logit')


def build(part, options):
    if part == 'conv':
        return MoEConv(4, 4, 3, padding=1, **options)
    if part == 'fpn':
        # Extra levels by convolution have stride 2, which patches refuse.
        return MoEFPN([4, 6], 4, num_outs=3, **options)
    if part == 'resnet':
        return MoEResNet(18, base_channels=4, stem_channels=4, **options)
    return MoERetinaHead(
        3, 4, feat_channels=4, stacked_convs=2, **options,
        train_cfg=dict(
            assigner=dict(
                type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4,
                min_pos_iou=0, ignore_iof_thr=-1),
            sampler=dict(type='PseudoSampler'), allowed_border=-1,
            pos_weight=-1))


def inputs(part):
    if part == 'conv':
        return torch.randn(2, 4, 7, 5)
    if part == 'fpn':
        return torch.randn(2, 4, 8, 8), torch.randn(2, 6, 4, 4)
    if part == 'resnet':
        return torch.randn(2, 3, 64, 64)
    return [torch.randn(2, 4, 128 // s, 128 // s) for s in (8, 16, 32, 64, 128)]


def loss(part, module):
    if part != 'head':
        y = module(inputs(part))
        return sum(v.pow(2).mean() for v in ([y] if part == 'conv' else y))
    sample = DetDataSample(metainfo=dict(
        img_shape=(128, 128), pad_shape=(128, 128),
        batch_input_shape=(128, 128)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 10, 50, 60]]), labels=torch.tensor([1]))
    losses = module.loss(inputs(part), [sample, sample.clone()])
    return sum(v for values in losses.values() for v in values)


def for_random(cases, number, check):
    settings(
        max_examples=number, deadline=None, derandomize=number == 200,
        suppress_health_check=list(HealthCheck))(given(cases)(check))()


@NUMBERS
def test_valid_ones_train_and_are_saved(number):
    for_random(configurations(), number, train_and_save)


def train_and_save(configuration):
    part, options = configuration
    torch.manual_seed(0)
    module = build(part, copy.deepcopy(options))
    module.train()
    layers = moe_layers(module).values()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
    for step in range(2):
        total = loss(part, module)
        for layer in layers:
            summary = layer.collect()
            if summary is not None:
                total = total + sum(summary.losses.values())
        optimizer.zero_grad()
        total.backward()
        assert torch.isfinite(total)
        nn.utils.clip_grad_norm_(module.parameters(), 1)
        optimizer.step()
        for layer in layers:
            layer.step()
            if layer.hard_constraint is not None:
                layer.hard_constraint.progress(epoch=step, iteration=step)
    for key, value in module.state_dict().items():
        assert torch.isfinite(value).all(), key

    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    again = build(part, copy.deepcopy(options))
    again.load_state_dict(torch.load(file))
    x = inputs(part)
    module.eval()
    again.eval()
    with torch.no_grad():
        for a, b in zip(flat(module(x)), flat(again(x))):
            assert torch.equal(a, b)


def flat(outputs):
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [leaf for item in outputs for leaf in flat(item)]


NOT_A_COUNT = st.one_of(
    st.integers(max_value=0), st.floats(), st.none(), st.text(), st.booleans())
NOT_A_WEIGHT = st.one_of(
    st.floats(max_value=-1e-3), st.just(float('nan')), st.just(float('inf')),
    st.none(), st.text(), st.booleans())
NAME = st.text('abcdefgh', min_size=1, max_size=9)
#: What to break: the key that the message has to name, where it is, and with
#: which values.
BREAKS = [
    ('num_experts', (), NOT_A_COUNT),
    ('top_k', (), NOT_A_COUNT),
    ('top_k', (), st.integers(7, 99)),
    ('balance_over', (), NAME),
    ('balance_weight', (), NAME),
    ('dispatch', (), NAME),
    ('noise', (), st.one_of(NAME, st.floats(2))),
    ('gate.type', (), NAME),
    ('gate', (), st.one_of(NAME, st.integers(), st.just({}))),
    ('scope.type', (), NAME),
    ('scope', (), st.one_of(NAME, st.integers())),
    ('scope.grid', (('scope', dict(type='PatchScope')), ), NOT_A_COUNT),
    ('soft_constraint.type', (), NAME),
    ('soft_constraint', (), st.one_of(NAME, st.integers())),
    ('soft_constraint.weight',
     (('soft_constraint', dict(type='SwitchLoss')), ), NOT_A_WEIGHT),
    ('hard_constraint.type', (), NAME),
    ('hard_constraint.threshold',
     (('hard_constraint', dict(type='MeanImportance')), ), NOT_A_WEIGHT),
    ('hard_constraint.lift_at',
     (('hard_constraint', dict(type='MeanImportance')), ),
     st.one_of(NAME, st.integers(), st.just({}))),
    ('hard_constraint.paper_per_call',
     (('hard_constraint', dict(type='MeanImportance')), ), NAME),
]


@st.composite
def broken(draw):
    part, options = draw(configurations())
    moe = copy.deepcopy(options if part == 'conv' else options['moe'])
    if draw(st.integers(0, 9)) == 0:
        key = 'unknown_' + draw(NAME)
        moe[key] = 1
    else:
        key, needs, values = draw(st.sampled_from(BREAKS))
        # What is checked first must not hide the key in question.
        moe.update(gate=dict(type='GAPFCGate'), soft_constraint=None,
                   hard_constraint=None, num_experts=4, top_k=2)
        moe.update(copy.deepcopy(dict(needs)))
        *path, last = key.split('.')
        target = moe
        for name in path:
            target[name] = dict(target.get(name) or {})
            target = target[name]
        target[last] = draw(values)
    if part == 'conv':
        return part, moe, key
    return part, dict(options, moe=moe), key


@NUMBERS
def test_invalid_ones_are_a_value_error_that_names_the_key(number):
    for_random(broken(), number, name_the_key)


def name_the_key(case):
    part, options, key = case
    with pytest.raises(ValueError) as error:
        build(part, options)
    assert f'{key}=' in str(error.value)
