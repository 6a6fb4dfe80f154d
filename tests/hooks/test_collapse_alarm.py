"""Which gates the alarm is about."""
import logging

import pytest
import torch
from mmdet.structures import DetDataSample, TrackDataSample
from mmengine.logging import MMLogger
from torch import nn

from mmdet_moe.hooks.collapse_alarm import CollapseAlarm
from mmdet_moe.layers import MoELayer, forced


def alarm(layer, *pictures):
    """Its figures of a validation, and what it said."""
    logger = MMLogger.get_instance('collapse')
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger.addHandler(handler)
    watching = CollapseAlarm(dict(layer=layer))
    for x in pictures:
        watching.see([
            DetDataSample(), DetDataSample(metainfo=dict(decisions={
                'layer': layer.eval().decide([x]).detach()}))])
    figures = watching.result()
    logger.removeHandler(handler)
    return figures.get('layer'), ' '.join(said)


def gate(*rows, top_k=1, **options):
    """Experts by the sign of the only channel; a row is weight and bias."""
    layer = MoELayer(lambda: nn.Conv2d(1, 1, 1), 1, num_experts=len(rows),
                     top_k=top_k, **options)
    weight, bias = torch.tensor(rows).float().unbind(1)
    layer.gate.fc_weight.data, layer.gate.fc_bias.data = weight[:, None], bias
    return layer


PLUS, MINUS = torch.ones(1, 1, 2, 2), -torch.ones(1, 1, 2, 2)


def test_the_input_decides():
    figures, said = alarm(gate((9, 0), (-9, 0), (0, -50)), PLUS, MINUS)
    # one of two experts, half and half: 1 bit
    assert figures == dict(
        input_dependence=pytest.approx(1), living_experts=2)
    assert said == ''


def test_the_same_two_experts_for_everything():
    figures, said = alarm(
        gate((0, 1), (0, 1), (0, -9), top_k=2), PLUS, MINUS)
    assert figures == dict(
        input_dependence=pytest.approx(0, abs=1e-6), living_experts=2)
    assert 'layer has collapsed' in said
    assert '0.000 of 1.58 bits' in said and '2 of 3 experts' in said


def test_nothing_that_was_learned():
    collapsed = (0, 1), (0, 0), (0, -9)
    equal = MoELayer(lambda: nn.Conv2d(1, 1, 1), 1,
                     gate=dict(type='EqualGate'))
    assert alarm(equal, PLUS)[1] == ''
    layer = gate(*collapsed)
    with forced(layer, expert=1):
        assert alarm(layer, PLUS)[1] == ''
    assert alarm(gate(*collapsed, top_k=3), PLUS)[1] == ''
    assert alarm(layer) == (None, '')  # nothing decided
    assert 'collapsed' in alarm(layer, PLUS)[1]


def test_frames_of_a_video_count_and_other_outputs_do_not():
    layer = gate((9, 0), (-9, 0), (0, -50)).eval()
    frames = [DetDataSample() for _ in range(2)]
    for frame, x in zip(frames, (PLUS, MINUS)):
        frame.decisions = {'layer': layer.decide([x]).detach()}
    watching = CollapseAlarm(dict(layer=layer))
    watching.see([TrackDataSample(video_data_samples=frames), torch.ones(1),
                  dict(score=1.0), 3])
    assert watching.result()['layer'] == dict(
        input_dependence=pytest.approx(1), living_experts=2)
