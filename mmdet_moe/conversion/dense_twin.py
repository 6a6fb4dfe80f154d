"""The config of the same detector without experts."""
from typing import Any

from mmdet.registry import MODELS
from mmengine.config import ConfigDict


def dense_twin(cfg: Any) -> Any:
    """The config of the same model without experts.

    Every part whose class, or the function that builds it, has an attribute
    ``dense_twin`` is changed: it becomes one of that type, or of the type
    that ``dense_twin(cfg)`` returns, and loses the keys that ``moe_keys``
    lists. A part whose ``dense_twin`` is None only adds to a detector, and is
    taken out of the list or dict that it is in.
    """
    if isinstance(cfg, (list, tuple)):
        return type(cfg)(
            dense_twin(item) for item in cfg if _twin_type(item) is not None)
    if not isinstance(cfg, dict):
        return cfg
    twin = {
        key: dense_twin(value)
        for key, value in cfg.items() if _twin_type(value) is not None
    }
    part = _part(cfg)
    if hasattr(part, 'dense_twin'):
        twin = {k: v for k, v in twin.items() if k not in part.moe_keys}
        twin['type'] = _twin_type(cfg)
    return ConfigDict(twin)


def _part(cfg: Any) -> Any:
    """What builds the part that a config describes; None if that is none."""
    name = cfg.get('type') if isinstance(cfg, dict) else None
    if not isinstance(name, str):
        return None
    # Of the scope that the config is built in, which may be another library's.
    with MODELS.switch_scope_and_registry(None) as registry:
        return registry.get(name)


def _twin_type(cfg: Any) -> Any:
    """The type of the dense part; None where there is none."""
    twin = getattr(_part(cfg), 'dense_twin', '')
    return twin(cfg) if callable(twin) else twin
