"""A trial run of a module that is to become a mixture of experts."""
from contextlib import contextmanager
from typing import Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from mmdet_moe.layers.checks import ConfigError

from .mixtures import first_layer

#: Sizes of maps to try: some modules take one only, or none below one. The last
#: is that of a context that is added to all positions (GCNet).
_SIZES = (8, 7, 14, 16, 32, 64, 1)
#: Of errors which say that this machine cannot run an operator at all.
_NOT_HERE = ('implementation for device', 'not compiled', 'not implemented',
             'only support')
#: Largest difference between runs with more and with fewer samples.
_RTOL, _ATOL = 1e-3, 1e-4


def flaw(module: nn.Module) -> Optional[str]:
    """Run a module on small random features, to see whether it can be an
    expert: it maps one tensor to one, and each sample on its own.

    Args:
        module: Starts with a convolution, then the features are maps (2, C, H,
            W); or with a fully connected layer, then rows (n, C).

    Returns:
        What is wrong with it, or None. None also where the machine cannot run
        one of its operators.
    """
    inputs = example_inputs(module)
    if inputs is None:
        return None
    x, reason = inputs
    if x is None:
        return reason
    with _as_in_a_trial(module):
        whole, apart = module(x.clone()), [
            module(x[i:i + 1].clone()) for i in range(len(x))]
    if not isinstance(whole, Tensor):
        return f'returns a {type(whole).__name__}'
    if len(whole) != len(x):
        return (f'returns {tuple(whole.shape)} for {tuple(x.shape)}, where '
                'the first axis should stay')
    joined = torch.cat(apart)
    if joined.shape != whole.shape or not torch.allclose(
            joined, whole, rtol=_RTOL, atol=_ATOL * float(
                whole.abs().max().clamp_min(1e-6)), equal_nan=True):
        return 'returns something else for a sample if there are others'
    return None


def check_mixture(module: nn.Module, mixture: nn.Module) -> None:
    """Run a mixture where the module that it replaces could be run.

    Raises:
        ConfigError: It fails, or returns another shape.
    """
    x, _ = example_inputs(module) or (None, '')
    if x is None:
        return
    with _as_in_a_trial(module), _as_in_a_trial(mixture):
        try:
            found = mixture(x.clone()).shape
        except Exception as error:
            raise ConfigError(
                f'a {type(module).__name__} cannot be an expert with these '
                f'options: {error}') from error
        expected = module(x).shape
    if found != expected:
        raise ConfigError(
            f'a {type(module).__name__} cannot be an expert: the mixture '
            f'returns {tuple(found)} where it returns {tuple(expected)}')


def trial_outputs(module: nn.Module) -> Optional[Sequence]:
    """What a module returns for small features, as a sequence; None where it
    is not known what it could be run on."""
    x, _ = example_inputs(module) or (None, '')
    if x is None:
        return None
    with _as_in_a_trial(module):
        found = module(x)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def example_inputs(module: nn.Module
                   ) -> Optional[Tuple[Optional[Tensor], str]]:
    """Small features that a module can be run on.

    Returns:
        The features, or None and what is wrong with the module; None if the
        machine cannot run it.
    """
    first = first_layer(module)
    parameter = next(module.parameters(), None)
    if first is None or parameter is None or parameter.is_meta:
        return None
    reason = ''
    for shape in _shapes(first):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(
            parameter)
        try:
            with _as_in_a_trial(module):
                module(x.clone())
        except NotImplementedError:
            return None
        except Exception as error:  # whatever a stranger's forward raises
            reason = f'{type(error).__name__}: {str(error).splitlines()[0]}' \
                if str(error) else type(error).__name__
            if any(part in reason for part in _NOT_HERE):
                return None
        else:
            return x, ''
    return None, f'cannot be run on a tensor {tuple(shape)} ({reason})'


def _shapes(first: nn.Module) -> List[Tuple[int, ...]]:
    if isinstance(first, nn.Linear):
        return [(3, first.in_features)]
    return [(2, first.in_channels, size, size) for size in _SIZES]


@contextmanager
def _as_in_a_trial(module: nn.Module) -> Iterator[None]:
    """Evaluation without gradients; nothing is left of it, neither in the
    module nor in the generators of random numbers."""
    modes = [(part, part.training) for part in module.modules()]
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for part, training in modes:
                part.training = training
