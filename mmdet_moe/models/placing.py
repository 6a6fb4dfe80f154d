"""Where experts go: the modules of a detector that a config names."""
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Callable, Dict, List, Mapping, NamedTuple, Sequence

from terminaltables import AsciiTable
from torch import nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import fail

from .insertion import check_insertable, insert_after
from .replacement import check_replaceable, replace


@dataclass(frozen=True)
class Placed:
    """A mixture that a detector got.

    Attributes:
        names: All names under which the model has it; the first one is that
            of the layer.
        was: Class of the module that it replaces; ``'after'`` and the class
            where it is added.
        now: The mixture.
        parameters: Of the module, and of what is there now.
    """
    names: Sequence[str]
    was: str
    now: MoELayer
    parameters: Sequence[int]


class _Choice(NamedTuple):
    names: List[str]
    place: str
    options: dict


#: By key of an entry of ``experts``: what refuses a module, and what puts
#: experts there.
PLACES = dict(
    at=(check_replaceable, replace), after=(check_insertable, insert_after))


def _never(model: nn.Module, names: Sequence[str]) -> bool:
    return False


def add_experts(model: nn.Module, experts: Sequence[Mapping],
                targets: Callable[[nn.Module, Sequence[str]], bool] = _never
                ) -> List[Placed]:
    """Replace modules by mixtures of experts, or add mixtures after them.

    Args:
        model: A model, before its weights are initialised or loaded.
        experts: For each, ``at``: the name of a module, or a pattern, or
            several of them, which is replaced by experts of the same
            architecture; or ``after``: likewise, what is followed by a
            :class:`.ResidualMixture`. And the keyword arguments of
            :class:`~mmdet_moe.layers.MoELayer`, ``residual`` beside ``at``
            for a mixture that its input is added to (the paper's residual
            variant), and those of the residual mixture beside ``after``.
            In a pattern ``*`` stands for a part of a name between two dots:
            ``'bbox_head.cls_convs.*'``.
        targets: Says whether the model tells a layer what is foreground, by
            the names that it will have.

    Raises:
        ValueError: A pattern matches nothing, two match one module or a part
            of it, or a module cannot have experts there; says why and what
            would work.
    """
    placed = []
    for names, place, options in _choose(model, experts):
        module = model.get_submodule(names[0])
        was, before = type(module).__name__, _count(module)
        now = PLACES[place][1](
            model, names, options, targets=targets(model, names))
        placed.append(
            Placed(
                _all_names(model)[id(now)],
                was if place == 'at' else f'after {was}', now,
                (before, _count(model.get_submodule(names[0])))))
    return placed


def table_of_experts(placed: Sequence[Placed]) -> str:
    """What experts are where, with the parameters before and after."""
    rows = [['layer', 'was', 'experts', 'active', 'parameters', 'with experts']]
    for one in placed:
        also = f' (and {len(one.names) - 1} more names)' if (
            len(one.names) > 1) else ''
        rows.append([
            one.names[0] + also, one.was,
            str(one.now.num_experts), str(one.now.top_k),
            *(f'{n:,}' for n in one.parameters)
        ])
    return AsciiTable(rows, 'Experts').table


def _choose(model: nn.Module, experts: Sequence[Mapping]) -> List[_Choice]:
    """The modules, with all their names and the options of their mixtures."""
    names = _all_names(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    chosen: Dict[int, _Choice] = {}
    origin: Dict[str, str] = {}
    for i, options in enumerate(experts):
        places = PLACES.keys() & options if isinstance(options, Mapping) else ()
        if len(places) != 1:
            fail(f'experts[{i}]', options,
                 "a dict with 'at' or 'after', and the options of a MoE layer")
        place, = places
        moe = {key: value for key, value in options.items() if key != place}
        patterns = options[place]
        patterns = (patterns, ) if isinstance(patterns, str) else patterns
        for pattern in patterns:
            found = [n for n in modules if n and matches(n, pattern)]
            if not found:
                fail(f'experts[{i}].{place}', pattern,
                     'the name of a module, or a pattern that matches one; '
                     + _near(pattern, modules))
            for name in found:
                module = modules[name]
                if id(module) in chosen:
                    if names[id(module)][0] in origin and origin[
                            names[id(module)][0]] == (i, pattern):
                        continue  # one module under two names
                    fail(f'experts[{i}].{place}', pattern,
                         f'a pattern that matches no module twice; {name} is '
                         'matched by another one already')
                PLACES[place][0](model, name, module)
                chosen[id(module)] = _Choice(names[id(module)], place, moe)
                origin[names[id(module)][0]] = (i, pattern)
    _check_apart([
        name for choice in chosen.values() if choice.place == 'at'
        for name in choice.names
    ], [name for choice in chosen.values() for name in choice.names])
    return list(chosen.values())


def _all_names(model: nn.Module) -> Dict[int, List[str]]:
    """By the id of a module all names under which a model has it."""
    names: Dict[int, List[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return names


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted name matches a pattern, part by part."""
    parts, patterns = name.split('.'), str(pattern).split('.')
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts,
                                                   patterns))


def _check_apart(mixtures: Sequence[str], names: Sequence[str]) -> None:
    """Nothing within what becomes a mixture."""
    for outer in mixtures:
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
