"""Exported layers: right for other inputs than the one that was recorded."""
import io

import needs
import numpy as np
import pytest
import torch
from torch import nn

from mmdet_moe.layers import MoELayer

SCOPES = [
    'LevelScope', 'ImageScope', 'PositionScope', 'PatchScope', 'RowScope']


def layer_and_inputs(scope, top_k):
    """Two pictures for the recording, and two that go to other experts; of
    rows, two pictures' tokens."""
    rows = scope == 'RowScope'
    layer = MoELayer(
        lambda: nn.Linear(4, 4) if rows else nn.Conv2d(4, 4, 1), 4,
        num_experts=4, top_k=top_k, scope=dict(type=scope)).eval()
    nn.init.normal_(layer.gate.fc_weight)
    first, other = torch.randn(2, 2, 7, 4) if rows else torch.randn(
        2, 2, 4, 5, 6)
    chosen = [layer.decide([x]).weights > 0 for x in (first, -other)]
    assert not torch.equal(*chosen)
    return layer, first, -other


def exported(layer, first, dynamo):
    """The layer as ONNX Runtime runs it."""
    onnxruntime = pytest.importorskip('onnxruntime')
    file = io.BytesIO()
    torch.onnx.export(layer, (first, ), file, input_names=['x'], verbose=False,
                      **dict(dynamo=dynamo) if needs.HAS_DYNAMO_EXPORT else {})
    session = onnxruntime.InferenceSession(file.getvalue())
    return lambda x: session.run(None, {'x': x.numpy()})[0]


@pytest.mark.parametrize(
    'dynamo', [False, pytest.param(True, marks=needs.dynamo_export)])
@pytest.mark.parametrize('top_k', [1, 2])
@pytest.mark.parametrize('scope', SCOPES)
def test_onnx(scope, top_k, dynamo):
    layer, first, other = layer_and_inputs(scope, top_k)
    run = exported(layer, first, dynamo)
    for x in (first, other):
        with torch.no_grad():
            assert np.allclose(run(x), layer(x).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    'dynamo', [False, pytest.param(True, marks=needs.dynamo_export)])
def test_equal_logits(dynamo):
    """The first of them is taken, as everywhere."""
    layer, first, other = layer_and_inputs('PositionScope', 2)
    with torch.no_grad():
        layer.gate.fc_weight[1:] = layer.gate.fc_weight[1]
        layer.gate.fc_bias[1:] = layer.gate.fc_bias[1]
        expected = layer(other).numpy()
    run = exported(layer, first, dynamo)
    assert np.allclose(run(other), expected, atol=1e-5)
