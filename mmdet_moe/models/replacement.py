"""Experts by name: modules of a model become mixtures of their like."""
import inspect
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Dict, List, Mapping, Sequence

from terminaltables import AsciiTable
from torch import nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError, fail

from .mixtures import Mixture, first_layer


@dataclass(frozen=True)
class Replacement:
    """A module that became a mixture.

    Attributes:
        names: All names under which the model has it; the first one is that
            of the mixture.
        was: Its class.
        now: The mixture.
        parameters: Of the module, and of the mixture.
    """
    names: Sequence[str]
    was: str
    now: MoELayer
    parameters: Sequence[int]


#: Names and methods of what a detector uses as a whole.
_WHOLE_PART = re.compile(r'(^|\.)(backbone|neck)(\.\d+)?$')
_METHODS_OF_HEADS = ('loss', 'loss_and_target', 'predict', 'predict_by_feat')


def replace_modules(model: nn.Module,
                    experts: Sequence[Mapping]) -> List[Replacement]:
    """Replace modules by mixtures of experts of the same architecture.

    Args:
        model: A model, before its weights are initialised or loaded.
        experts: For each, ``at``: the name of a module, or a pattern, or
            several of them; and the keyword arguments of
            :class:`~mmdet_moe.layers.MoELayer`. In a pattern ``*`` stands for
            a part of a name between two dots: ``'bbox_head.cls_convs.*'``.

    Raises:
        ValueError: A pattern matches nothing, two match one module or a part
            of it, or a module cannot become a mixture; says why and what
            would work.
    """
    chosen = _choose(model, experts)
    done = []
    for names, moe in chosen.values():
        module = model.get_submodule(names[0])
        try:
            mixture = Mixture(module, moe)
        except ConfigError as error:
            raise ConfigError(f'experts, at={names[0]!r}: {error}') from None
        if not any(p.requires_grad for p in module.parameters()):
            mixture.requires_grad_(False)  # of a stage that is frozen
        mixture.train(module.training)
        for name in names:
            parent, _, attribute = name.rpartition('.')
            setattr(model.get_submodule(parent), attribute, mixture)
        done.append(
            Replacement(names, type(module).__name__, mixture,
                        (_count(module), _count(mixture))))
    return done


def replacement_table(done: Sequence[Replacement]) -> str:
    """What was replaced by what, with the parameters before and after."""
    rows = [['layer', 'was', 'experts', 'active', 'parameters', 'with experts']]
    for one in done:
        also = f' (and {len(one.names) - 1} more names)' if (
            len(one.names) > 1) else ''
        rows.append([
            one.names[0] + also, one.was,
            str(one.now.num_experts), str(one.now.top_k),
            *(f'{n:,}' for n in one.parameters)
        ])
    return AsciiTable(rows, 'Experts').table


def _choose(model: nn.Module, experts: Sequence[Mapping]) -> Dict[int, tuple]:
    """By module: all its names, and the options of its mixture."""
    names: Dict[int, List[str]] = {}
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, module in modules.items():
        names.setdefault(id(module), []).append(name)
    chosen: Dict[int, tuple] = {}
    origin: Dict[str, str] = {}
    for i, options in enumerate(experts):
        if not isinstance(options, Mapping) or 'at' not in options:
            fail(f'experts[{i}]', options,
                 "a dict with 'at' and the options of a MoE layer")
        moe = {key: value for key, value in options.items() if key != 'at'}
        patterns = options['at']
        patterns = (patterns, ) if isinstance(patterns, str) else patterns
        for pattern in patterns:
            found = [n for n in modules if n and matches(n, pattern)]
            if not found:
                fail(f'experts[{i}].at', pattern,
                     'the name of a module, or a pattern that matches one; '
                     + _near(pattern, modules))
            for name in found:
                module = modules[name]
                if id(module) in chosen:
                    if names[id(module)][0] in origin and origin[
                            names[id(module)][0]] == (i, pattern):
                        continue  # one module under two names
                    fail(f'experts[{i}].at', pattern,
                         f'a pattern that matches no module twice; {name} is '
                         'matched by another one already')
                check_replaceable(model, name, module)
                chosen[id(module)] = names[id(module)], moe
                origin[names[id(module)][0]] = (i, pattern)
    _check_apart([n for found, _ in chosen.values() for n in found])
    return chosen


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted name matches a pattern, part by part."""
    parts, patterns = name.split('.'), str(pattern).split('.')
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts,
                                                   patterns))


def check_replaceable(model: nn.Module, name: str, module: nn.Module) -> None:
    """Refuse a module that cannot become a mixture.

    Raises:
        ValueError: Says why, and what would work.
    """

    def refuse(why: str) -> None:
        inside = [
            f'{name}.{child}' for child, part in module.named_modules()
            if child and isinstance(part, (nn.Conv2d, nn.Linear))
        ]
        fail('experts, at', name,
             f'a module that maps one tensor to one; {type(module).__name__} '
             + why + (f'. Inside of it there is {inside[0]}' if inside and
                      not isinstance(module, MoELayer) else ''))

    if any(isinstance(part, MoELayer) for part in module.modules()):
        refuse('has experts already')
    if first_layer(module) is None:
        refuse('has no convolution or fully connected layer')
    if type(module).forward in (nn.Module.forward, nn.ModuleList.forward):
        refuse('is a list of modules and cannot be called')
    if _WHOLE_PART.search(name) or any(
            hasattr(module, method) for method in _METHODS_OF_HEADS):
        refuse('is a whole part of a detector, with several outputs')
    needed = [
        p.name for p in inspect.signature(module.forward).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    required = [
        p.name for p in inspect.signature(module.forward).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY,
                                               p.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) != 1 or 'key' in needed:
        refuse('takes several inputs: ' + ', '.join(needed))
    reader = _reader(model, name)
    if reader is not None:
        refuse(f'is read by {reader}, which uses its weights directly and not '
               'the module')


def _reader(model: nn.Module, name: str):
    """The class that reads the weights of a module beside calling it.

    What is looked for is ``.name.weight`` in the source of the modules that
    contain it; there is no other way to tell before it fails.
    """
    parts = name.split('.')
    for depth in range(1, min(3, len(parts)) + 1):
        owner = model.get_submodule('.'.join(parts[:-depth]))
        wanted = f'self.{".".join(parts[-depth:])}.weight'
        for cls in type(owner).__mro__:
            method = vars(cls).get('forward')
            if cls in (nn.Module, object):
                break
            try:
                source = inspect.getsource(method if cls.__module__.startswith(
                    'torch.') else cls)
            except (OSError, TypeError):
                continue
            if wanted in source:
                return cls.__name__
    return None


def _check_apart(names: Sequence[str]) -> None:
    """No mixture within another one."""
    for outer in names:
        for inner in names:
            if inner.startswith(f'{outer}.'):
                fail('experts, at', inner,
                     f'a module outside of {outer}, which becomes a mixture '
                     'itself')


def _near(pattern: str, modules: Mapping[str, nn.Module]) -> str:
    """Names that may have been meant: those that begin alike."""
    parts = str(pattern).split('.')
    for length in range(len(parts) - 1, -1, -1):
        start = '.'.join(parts[:length])
        there = [
            name for name in modules
            if name and name.count('.') == length and (
                not start or matches(name.rpartition('.')[0], start))
        ]
        if there:
            where = f'in {start}' if start else 'in the model'
            return f'{where} there are ' + ', '.join(there[:20])
    return 'there are none'


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
