"""Configuration checks: every failure names the key, the value and what is
allowed, so that a wrong config stops when the model is built."""
import inspect
import math
from numbers import Integral, Real
from typing import Any, Callable, Mapping, Optional


class ConfigError(ValueError):
    """A value in a configuration that is not allowed."""


def fail(key: str, value: Any, allowed: str) -> None:
    raise ConfigError(f'{key}={value!r}: allowed is {allowed}')


def check_int(key: str,
              value: Any,
              low: int,
              high: Optional[int] = None) -> int:
    """Return ``value`` if it is an integer in [low, high], else ValueError."""
    span = f'at least {low}' if high is None else f'from {low} to {high}'
    if (isinstance(value, bool) or not isinstance(value, Integral)
            or value < low or (high is not None and value > high)):
        fail(key, value, f'an integer {span}')
    return int(value)


def check_number(key: str, value: Any, low: float = 0.0) -> float:
    """Return ``value`` as float if finite and >= low, else ValueError."""
    if (isinstance(value, bool) or not isinstance(value, Real)
            or not math.isfinite(value) or value < low):
        fail(key, value, f'a finite number, at least {low:g}')
    return float(value)


def check_choice(key: str, value: Any, choices) -> Any:
    """Return ``value`` if it is one of ``choices``, else ValueError."""
    if value not in tuple(choices):
        fail(key, value, 'one of ' + ', '.join(repr(c) for c in choices))
    return value


def check_subset(key: str, values: Any, choices) -> tuple:
    """Return ``values`` as a non-empty tuple out of ``choices``.

    A single string counts as a tuple of one.
    """
    values = (values, ) if isinstance(values, str) else values
    if (not isinstance(values, (tuple, list)) or not values
            or any(v not in tuple(choices) for v in values)
            or len(set(values)) != len(values)):
        fail(key, values,
              'one or more of ' + ', '.join(repr(c) for c in choices))
    return tuple(values)


def check_keywords(key: str, cfg: Any, function: Callable, *,
                   reserved: tuple = ()) -> dict:
    """Return ``cfg`` as a dict if ``function`` takes all of its keys.

    Args:
        key: Name of the option that holds ``cfg``, for the message.
        cfg: Mapping from argument name to value.
        function: Class or function that will be called with it.
        reserved: Arguments of ``function`` that a config may not set.
    """
    if not isinstance(cfg, Mapping):
        fail(key, cfg, 'a dict')
    known = [
        name for name, p in inspect.signature(function).parameters.items()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        and name not in reserved
    ]
    for name in cfg:
        if name not in known:
            fail(f'{key}.{name}', cfg[name],
                  'no such key; ' + (f'the keys are {", ".join(known)}'
                                     if known else 'there are no keys'))
    return dict(cfg)
