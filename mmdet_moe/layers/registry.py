"""Registries: the classes that a config can name, and how they are built."""
from typing import Any, Dict, Mapping

from .checks import ConfigError, check_choice, check_keywords, fail


class Registry(Dict[str, type]):
    """The classes of one kind, by name.

    Args:
        base: What every class in it derives from.

    Example, a gate of one's own, usable as ``gate=dict(type='MaxPoolGate')``:
        >>> from torch import nn
        >>> from mmdet_moe.layers import GATES, Gate
        >>> @GATES.register
        ... class MaxPoolGate(Gate):
        ...     def __init__(self, in_channels, num_experts):
        ...         super().__init__(in_channels, num_experts)
        ...         self.fc = nn.Linear(in_channels, num_experts)
        ...
        ...     def features(self, x):  # (N, C, H, W) -> float32 (N, C)
        ...         return x.float().amax(dim=(-2, -1))
        ...
        ...     def logits(self, features):  # (N, C) -> (N, E)
        ...         return self.fc(features)
    """

    def __init__(self, base: type) -> None:
        super().__init__()
        self.base = base

    def register(self, cls: type) -> type:
        """Add a class under its own name; to be used as a decorator.

        Raises:
            ValueError: It is no subclass of the base, or the name is taken.
        """
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            fail('class', cls, f'a subclass of {self.base.__name__}')
        taken = self.get(cls.__name__)
        # The same class may come again: a notebook's cell, a reload.
        if taken is not None and (taken.__module__, taken.__qualname__) != (
                cls.__module__, cls.__qualname__):
            fail('class', cls.__name__,
                 f'a name that is not taken; there is {taken!r}')
        self[cls.__name__] = cls
        return cls

    def build(self, key: str, cfg: Any, **given) -> Any:
        """Build the class that ``cfg['type']`` names.

        Args:
            key: Name of the option that holds ``cfg``, for the message.
            cfg: Mapping with ``type`` and the arguments of that class.
            given: Arguments that the layer sets, not the config.

        Raises:
            ValueError: A wrong type, key or value; names it and what is
                allowed.
        """
        if not isinstance(cfg, Mapping) or 'type' not in cfg:
            fail(key, cfg, "a dict with a 'type' out of " + ', '.join(self))
        cls = self[check_choice(f'{key}.type', cfg['type'], self)]
        options = {name: value for name, value in cfg.items() if name != 'type'}
        try:
            return cls(
                **given,
                **check_keywords(key, options, cls, reserved=tuple(given)))
        except ValueError as error:
            message = str(error)
            raise ConfigError(message if message.startswith(f'{key}.') else
                              f'{key}.{message}') from None
        except TypeError as error:  # a required argument is missing
            raise ConfigError(f'{key}={dict(cfg)!r}: {error}') from None
