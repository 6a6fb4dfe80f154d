"""What a test needs that not every stack has, with the reason for the skip."""
import pytest
import torch
from torch.nn import functional as F


def _has(there: bool, reason: str):
    return pytest.mark.skipif(
        not there, reason=f'PyTorch {torch.__version__} {reason}')


def _at_least(major: int, minor: int) -> bool:
    version = torch.__version__.split('.')
    return (int(version[0]), int(version[1])) >= (major, minor)


HAS_DYNAMO_EXPORT = _at_least(2, 5)
dynamo_export = _has(
    HAS_DYNAMO_EXPORT, 'has no torch.onnx.export(dynamo=True) of a layer')
is_exporting = _has(
    hasattr(torch.compiler, 'is_exporting'),
    'exports no sparse dispatch: it has no torch.compiler.is_exporting')
compiled_detectors = _has(
    _at_least(2, 4), "does not compile MMDetection's data preprocessor")
grouped_products = _has(
    hasattr(F, 'grouped_mm'), 'has no torch.nn.functional.grouped_mm')
cpu_scaler = _has(
    hasattr(torch.amp, 'GradScaler'), 'has no gradient scaler for a CPU')
half_on_cpu = _has(
    _at_least(2, 3), 'has no convolution in half precision on a CPU')
