"""Experts: any module that maps (n, C, H, W) to a tensor with n rows.

A convolution (ConvMoE) and a whole subnet (tower and predictor, as one
``nn.Sequential``) are used as they are; what a layer needs is a way to make
E of them that start differently.
"""
import copy

from torch import nn


def fresh_copy(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with parameters drawn anew.

    Every submodule with a ``reset_parameters`` method is reset; a parameter
    that belongs to none of them keeps its value.
    """
    module = copy.deepcopy(module)
    for layer in module.modules():
        if hasattr(layer, 'reset_parameters'):
            layer.reset_parameters()
    return module
