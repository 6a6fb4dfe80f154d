"""Where experts go: the modules of a detector that a config names."""
from dataclasses import dataclass
from functools import partial
from typing import (
    Callable,
    Dict,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

from terminaltables import AsciiTable
from torch import nn

from mmdet_moe.layers import MoELayer
from mmdet_moe.layers.checks import ConfigError, fail

from .hints import instead, matching, near
from .insertion import insert_after, make_block, uninsertable
from .replacement import irreplaceable, make_mixture, replace


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
    entry: int


class _Place(NamedTuple):
    """What can be done at a place of a model.

    Attributes:
        wanted: The modules that it can be done with, in words.
        refusal: (model, name, module) -> why not with this one, or None.
        make: (module, options, targets=...) -> what would be there.
        put: (model, names, options, targets=...) -> the mixture that is.
    """
    wanted: str
    refusal: Callable[[nn.Module, str, nn.Module], Optional[str]]
    make: Callable[..., nn.Module]
    put: Callable[..., MoELayer]


#: By key of an entry of ``experts``.
PLACES = dict(
    at=_Place('a module that maps one tensor to one', irreplaceable,
              make_mixture, replace),
    after=_Place('a module that returns feature maps', uninsertable,
                 make_block, insert_after))

Targets = Callable[[nn.Module, Sequence[str]], bool]


def _never(model: nn.Module, names: Sequence[str]) -> bool:
    return False


def add_experts(model: nn.Module, experts: Sequence[Mapping],
                targets: Targets = _never) -> List[Placed]:
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
    for names, place, options, _ in _choose(model, experts, targets):
        module = model.get_submodule(names[0])
        was, before = type(module).__name__, _count(module)
        now = PLACES[place].put(
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


def _choose(model: nn.Module, experts: Sequence[Mapping],
            targets: Targets) -> List[_Choice]:
    """The modules, with all their names and the options of their mixtures."""
    names = _all_names(model)
    chosen: Dict[int, _Choice] = {}
    for i, options in enumerate(experts):
        place, patterns, moe = _entry(i, options)
        accepts = partial(_accepts, model, place, moe, targets, chosen)
        for pattern in patterns:
            found = matching(model, pattern)
            if not found:
                fail(f'experts[{i}].{place}', pattern,
                     'the name of a module, or a pattern that matches one; '
                     + near(model, pattern, accepts))
            for name in found:
                module = model.get_submodule(name)
                earlier = chosen.get(id(module))
                if earlier is None:
                    _check(model, name, place, accepts)
                    chosen[id(module)] = _Choice(
                        names[id(module)], place, moe, i)
                elif earlier.entry != i:
                    fail(f'experts[{i}].{place}', pattern,
                         _matched_twice(name, earlier))
    _check_apart([
        name for choice in chosen.values() if choice.place == 'at'
        for name in choice.names
    ], [name for choice in chosen.values() for name in choice.names])
    return list(chosen.values())


def _entry(i: int, options: Mapping) -> Tuple[str, Sequence[str], dict]:
    """The place, the patterns and the other options of an entry."""
    places = PLACES.keys() & options if isinstance(options, Mapping) else ()
    if len(places) != 1:
        fail(f'experts[{i}]', options,
             "a dict with 'at' or 'after', and the options of a MoE layer")
    place, = places
    patterns = options[place]
    return place, (patterns, ) if isinstance(patterns, str) else patterns, {
        key: value for key, value in options.items() if key != place}


def _check(model: nn.Module, name: str, place: str,
           accepts: Callable[[str], bool]) -> None:
    module = model.get_submodule(name)
    why = PLACES[place].refusal(model, name, module)
    if why is not None:
        fail(f'experts, {place}', name,
             f'{PLACES[place].wanted}; {type(module).__name__} {why}; ' +
             instead(model, name, accepts))


def _accepts(model: nn.Module, place: str, options: Mapping,
             targets: Targets, chosen: Mapping[int, _Choice],
             pattern: str) -> bool:
    """Whether experts with these options could be at all that a pattern
    matches, beside what is chosen already."""
    taken = [name for choice in chosen.values() for name in choice.names]
    found = matching(model, pattern)
    refusal, make = PLACES[place].refusal, PLACES[place].make
    for name in found:
        if any(_overlap(name, other) for other in taken) or refusal(
                model, name, model.get_submodule(name)) is not None:
            return False
    for name in {*found[:1], *found[-1:]}:
        try:
            make(model.get_submodule(name), options,
                 targets=targets(model, [name]))
        except ConfigError:
            return False
    return bool(found)


def _overlap(one: str, other: str) -> bool:
    return f'{one}.'.startswith(f'{other}.') or (
        f'{other}.'.startswith(f'{one}.'))


def _matched_twice(name: str, earlier: _Choice) -> str:
    also = '' if earlier.names[0] == name else (
        f', where it is called {earlier.names[0]}: both are names of one '
        'module')
    return (f'a pattern that matches no module twice; {name} is matched by '
            f'experts[{earlier.entry}] already{also}. Leave it out here')


def _all_names(model: nn.Module) -> Dict[int, List[str]]:
    """By the id of a module all names under which a model has it."""
    names: Dict[int, List[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    return names


def _check_apart(mixtures: Sequence[str], names: Sequence[str]) -> None:
    """Nothing within what becomes a mixture."""
    for outer in mixtures:
        for inner in names:
            if inner.startswith(f'{outer}.'):
                fail('experts, at', inner,
                     f'a module outside of {outer}, which becomes a mixture '
                     'itself')


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
