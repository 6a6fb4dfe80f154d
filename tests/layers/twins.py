"""A layer with the sparse dispatch against its twin with the dense one."""
import torch

from mmdet_moe.layers import dense_dispatch, sparse_dispatch


def assert_same(layer, levels, tolerance=1e-5):
    """Outputs, and gradients of parameters and features, are the same."""
    sparse = results(layer, levels, sparse_dispatch)
    for a, b in zip(sparse, results(layer, levels, dense_dispatch)):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def results(layer, levels, dispatch):
    """Outputs and gradients; leaves none behind."""
    layer.dispatch, before = dispatch, layer.dispatch
    levels = [x.clone().requires_grad_() for x in levels]
    outputs = layer(levels)
    sum(y.pow(2).sum() for y in outputs).backward()
    # An expert that was not run has no gradient, or 0 in the reference.
    gradients = [
        torch.zeros_like(p) if p.grad is None else p.grad
        for p in layer.parameters()
    ]
    layer.zero_grad()
    layer.dispatch = before
    return [*outputs, *gradients, *(x.grad for x in levels)]


def decided(layer, x):
    """The routing of a call."""
    kept = []
    handle = layer.observe(kept.append)
    layer(x)
    handle.remove()
    return kept[-1].routing
