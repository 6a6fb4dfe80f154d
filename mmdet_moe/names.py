"""Names that one part of the package writes and another one reads."""
import re
from typing import Optional, Tuple

from .sizes import SIZES

_WEIGHTS = '.expert_weights'


#: Name of what a data sample says about annotated objects; in `undecided`, the
#: key of the reason why the rule of the training did not say it.
GT_ORIGINS = 'gt_origins'


def weights_field(layer: str) -> str:
    """Field of ``pred_instances`` with the expert weights of a layer."""
    return layer + _WEIGHTS


def weighed_layer(field: str) -> Optional[str]:
    """The layer that a field is about, None for another field."""
    return field.removesuffix(_WEIGHTS) if field.endswith(_WEIGHTS) else None


def loss_key(constraint: str, layer: str) -> str:
    """Key of a soft constraint in the log.

    MMEngine adds up what has 'loss' in its name. MMDetection's analyze_logs
    takes a line for one of a validation if a key has a slash.
    """
    return f'loss_moe_{constraint}.{layer}'


def step_key(layer: str, what: str, expert: Optional[int] = None) -> str:
    """Key of a statistic of a training step: ``'importance'``, ``'share'``,
    ``'masked'`` of an expert, or ``'changed'``."""
    return f'moe.{layer}.{what}' + ('' if expert is None else f'_{expert}')


def validation_key(layer: str, what: str) -> str:
    """Key of a statistic of a validation: ``'input_dependence'``,
    ``'living_experts'``."""
    return f'moe/{layer}/{what}'


def metric_key(layer: str, what: str, expert: Optional[int] = None) -> str:
    """Key of a figure of an evaluation: of an expert ``'importance'`` or a
    size; or ``'importance_cv'``, ``'living_experts'``. The metric's prefix
    comes before it."""
    return f'{layer}' + ('' if expert is None else
                         f'_expert{expert}') + f'_{what}'


# Logs of earlier versions have slashes in the place of the dots.
_STEP = re.compile(r'moe[./](.+)[./]importance_(\d+)$')
_SIZE = re.compile(rf'moe/(.+)_expert(\d+)_({"|".join(SIZES)})$')


def read_importance(key: str) -> Optional[Tuple[str, int]]:
    """Layer and expert of a logged importance; None for another key."""
    match = _STEP.match(key)
    return match and (match[1], int(match[2]))


def read_size(key: str) -> Optional[Tuple[str, int, int]]:
    """Layer, expert and index out of ``SIZES`` of a logged weight by size;
    None for another key."""
    match = _SIZE.match(key)
    return match and (match[1], int(match[2]), SIZES.index(match[3]))
