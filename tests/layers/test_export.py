"""Exported layers: right for other inputs than the one that was recorded."""
import io

import numpy as np
import pytest
import torch
from torch import nn

from mmdet_moe.layers import MoELayer

SCOPES = ['LevelScope', 'ImageScope', 'PositionScope', 'PatchScope']


def layer_and_inputs(scope, top_k):
    """Two pictures for the recording, and two that go to other experts."""
    layer = MoELayer(
        lambda: nn.Conv2d(4, 4, 1), 4, num_experts=4, top_k=top_k,
        scope=dict(type=scope)).eval()
    nn.init.normal_(layer.gate.fc_weight)
    first, other = torch.randn(2, 2, 4, 5, 6)
    chosen = [layer.decide([x]).weights > 0 for x in (first, -other)]
    assert not torch.equal(*chosen)
    return layer, first, -other


@pytest.mark.parametrize('dynamo', [False, True])
@pytest.mark.parametrize('top_k', [1, 2])
@pytest.mark.parametrize('scope', SCOPES)
def test_onnx(scope, top_k, dynamo):
    onnxruntime = pytest.importorskip('onnxruntime')
    layer, first, other = layer_and_inputs(scope, top_k)
    file = io.BytesIO()
    torch.onnx.export(layer, (first, ), file, dynamo=dynamo,
                      input_names=['x'], verbose=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    for x in (first, other):
        found, = session.run(None, {'x': x.numpy()})
        with torch.no_grad():
            assert np.allclose(found, layer(x).numpy(), atol=1e-5)
