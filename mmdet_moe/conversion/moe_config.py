"""The text of a config that gives experts to the detector of another one."""
import os
import shlex
import textwrap
from typing import Any, List, Optional, Sequence

from mmengine.config import Config

from mmdet_moe.config_parts import in_scope, inner_datasets, type_name


def experts_of(at: Sequence[str], num_experts: int, top_k: int,
               soft_constraint: Sequence[str]) -> dict:
    """One entry of ``experts`` of a MoEDetector, as short as it can be."""
    constraints = [dict(type=name) for name in soft_constraint]
    experts = dict(at=list(at), num_experts=num_experts, top_k=top_k)
    if constraints:
        experts['soft_constraint'] = (
            constraints[0] if len(constraints) == 1 else constraints)
    return experts


def moe_config(cfg: Config,
               base: str,
               experts: dict,
               *,
               freeze: bool = False,
               load_from: Optional[str] = None,
               command: Sequence[str] = ()) -> str:
    """A config that inherits another one and gives it experts.

    A list in a config takes the place of the one that its base has, so the
    base's hooks, metrics and imports are named again. ExpertAssignmentMetric
    is added where there is a CocoMetric with the data loader's annotation file.
    Of a wrapper, such as a tracker, the detector inside gets the experts.

    Args:
        cfg: The other config, as loaded.
        base: What ``_base_`` is.
        experts: The entry of ``model.experts``.
        freeze: Whether only the MoE layers are trained.
        load_from: The checkpoint to start from, if any.
        command: For the docstring: what made this config, as arguments.

    Returns:
        The text of the file.
    """
    blocks = [
        [
            _docstring(cfg.model.type, experts['at'], command),
            f'_base_ = {base!r}',
            _imports(cfg)
        ],
        [_model(cfg, experts),
         _hooks(cfg, freeze)],
        _evaluators(cfg),
        [] if load_from is None else [f'load_from = {load_from!r}'],
    ]
    return '\n\n'.join('\n'.join(block) for block in blocks if block) + '\n'


def _docstring(detector: str, at: Sequence[str],
               command: Sequence[str]) -> str:
    text = textwrap.fill(
        f'{detector} with experts at ' + ', '.join(at) + '.', width=76,
        break_long_words=False, break_on_hyphens=False)
    if command:
        text += f'\n\nMade by\n\n{_shell(command)}\n'
    # Raw, for the ends of the lines; it cannot hold what would end it.
    text = text.replace('"""', "'''")
    return f'r"""{text}"""' if '\\' in text else f'"""{text}"""'


def _shell(command: Sequence[str]) -> str:
    """A command on lines of at most 79 characters, each option on its own
    as far as there is place."""
    lines, indent = [], 4
    for argument in map(shlex.quote, command):
        if lines and not argument.startswith('--') and (
                len(lines[-1]) + len(argument) < 77):
            lines[-1] += f' {argument}'
        else:
            lines.append(' ' * indent + argument)
            indent = 8
    return ' \\\n'.join(lines)


def _imports(cfg: Config) -> str:
    base = (cfg.get('custom_imports') or {}).get('imports')
    imports = "'mmdet_moe'"
    if base:
        star = '' if isinstance(base, str) else '*'
        imports += f', {star}_base_.custom_imports.imports'
    line = f'imports=[{imports}], allow_failed_imports=False)'
    return 'custom_imports = dict(' + ('\n    ' if base else '') + line


def is_wrapper(model: Any) -> bool:
    """Whether a model has a detector of its own, as trackers and teachers."""
    return 'type' in (model.get('detector') or '')


def _model(cfg: Config, experts: dict) -> str:
    wraps = is_wrapper(cfg.model)
    detector = cfg.model.detector if wraps else cfg.model
    return '\n'.join([
        f'model = dict({"detector=dict(" * wraps}',
        f'    type={in_scope("MoEDetector", cfg)!r},',
        f'    detector={detector.type!r},', '    experts=[', '        dict(',
        ',\n'.join(f'            {key}={_value(value)}'
                   for key, value in experts.items()) + ')',
        '    ]' + ')' * (1 + wraps)
    ])


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return 'dict(' + ', '.join(f'{k}={v!r}' for k, v in value.items()) + ')'
    if not isinstance(value, list):
        return repr(value)
    if len(value) == 1:
        return f'[{_value(value[0])}]'
    inner = ',\n'.join(f'                {_value(item)}' for item in value)
    return f'[\n{inner}\n            ]'


def _hooks(cfg: Config, freeze: bool) -> str:
    hooks = ["dict(type='MoEHook')"]
    if freeze:
        hooks.append("dict(type='FreezeHook')")
    if cfg.get('custom_hooks'):
        hooks.append('*_base_.custom_hooks')
    line = f'custom_hooks = [{", ".join(hooks)}]'
    if len(line) <= 79:
        return line
    return 'custom_hooks = [\n    ' + ',\n    '.join(hooks) + '\n]'


def _evaluators(cfg: Config) -> List[str]:
    """The base's evaluators and that of the experts."""
    found = {}
    for key in ('val_evaluator', 'test_evaluator'):
        coco = _coco_metric(cfg.get(key), f'_base_.{key}',
                            _annotations(cfg, key.partition('_')[0]))
        if coco is not None:
            own = f'*_base_.{key}' if isinstance(cfg[key], list) else (
                f'_base_.{key}')
            kind = in_scope('ExpertAssignmentMetric', cfg)
            found[key] = (f'[\n    {own},\n    dict(\n        type={kind!r},'
                          f'\n        ann_file={coco}.ann_file)\n]')
    if len(found) == 2 and cfg['test_evaluator'] == cfg['val_evaluator']:
        found['test_evaluator'] = 'val_evaluator'
    return [f'{key} = {value}' for key, value in found.items()]


def _annotations(cfg: Config, kind: str) -> List[str]:
    """The annotation files of a data loader; none where they are not known."""
    dataset = (cfg.get(f'{kind}_dataloader') or {}).get('dataset') or {}
    return [
        os.path.normpath(os.path.join(part.get('data_root') or '',
                                      part['ann_file']))
        for _, part in inner_datasets(kind, dataset) if part.get('ann_file')
    ]


def _coco_metric(evaluator: Any, name: str,
                 annotations: Sequence[str]) -> Optional[str]:
    """How a config refers to the CocoMetric with annotations of the pictures
    that are loaded; None where there is none."""
    listed = evaluator if isinstance(evaluator, list) else [evaluator or {}]
    for i, metric in enumerate(listed):
        if (type_name(metric) == 'CocoMetric' and metric.get('ann_file')
                and not metric.get('format_only')
                and annotations in ([], [os.path.normpath(metric.ann_file)])):
            return f'{name}[{i}]' if isinstance(evaluator, list) else name
    return None
