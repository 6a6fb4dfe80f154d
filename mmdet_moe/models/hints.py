"""What a message proposes: names and patterns that would be accepted."""
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Callable, Iterator, List, Sequence

from torch import nn

#: How many names a message proposes.
_MANY = 8

Accepts = Callable[[str], bool]


def matching(model: nn.Module, pattern: str) -> List[str]:
    """The names of a model that match a pattern; all names of a module that
    the model has under several."""
    return [
        name for name, _ in model.named_modules(remove_duplicate=False)
        if name and matches(name, pattern)
    ]


def matches(name: str, pattern: str) -> bool:
    """Whether a dotted name matches a pattern, part by part."""
    parts, patterns = name.split('.'), str(pattern).split('.')
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts,
                                                   patterns))


def instead(model: nn.Module, name: str, accepts: Accepts) -> str:
    """What could have experts in the place of a module that cannot: parts of
    it, or else modules that are near to it."""
    found = _first_accepted(_below(model, name), accepts, 3)
    if found:
        return f'accepted inside of it: {", ".join(found)}'
    return _around(model, name, accepts)


def near(model: nn.Module, pattern: str, accepts: Accepts) -> str:
    """What may have been meant by a pattern that matches nothing.

    First the same pattern below another part, then names that are written
    alike, then those that begin alike.
    """
    for candidates in (_longer(model, pattern), _alike(model, pattern)):
        found = _first_accepted(candidates, accepts, 3, generalise=False)
        if found:
            return f'accepted: {", ".join(found)}'
    return _around(model, pattern, accepts)


def _around(model: nn.Module, pattern: str, accepts: Accepts) -> str:
    """What there is in the nearest part of the model that has something."""
    parts = str(pattern).split('.')
    for length in range(len(parts) - 1, -1, -1):
        start = '.'.join(parts[:length])
        found = _first_accepted(
            (one for name in (matching(model, start) if start else [''])
             for one in _below(model, name)), accepts, _MANY)
        if found:
            return (f'accepted in {start or "the model"}: ' +
                    ', '.join(found))
    return 'accepted is none of this model'


def _first_accepted(candidates: Sequence[str], accepts: Accepts,
                    number: int, generalise: bool = True) -> List[str]:
    """The first names that are accepted, or patterns for them and their like;
    none contains another one."""
    found: List[str] = []
    refused = set()
    for name in candidates:
        like = _generalised(name) if generalise else name
        if any(_covers(one, name) or _covers(like, one) for one in found):
            continue
        for one in (like, name):
            if one not in refused:
                if accepts(one):
                    found.append(one)
                    break
                refused.add(one)
        if len(found) == number:
            break
    return found


def _covers(pattern: str, name: str) -> bool:
    """Whether a pattern matches a name or what contains it."""
    length = pattern.count('.') + 1
    return matches('.'.join(name.split('.')[:length]), pattern)


def _generalised(name: str) -> str:
    """With ``*`` for each number: the pattern for it and its like."""
    return '.'.join(
        '*' if part.isdecimal() else part for part in name.split('.'))


def _below(model: nn.Module, name: str) -> Iterator[str]:
    """The names below one: feed-forward networks, which experts were invented
    for, then the others, and the backbone's last."""
    start = f'{name}.' if name else ''
    names = [
        other for other, _ in model.named_modules(remove_duplicate=False)
        if other.startswith(start) and other != name
    ]

    def rank(other: str) -> int:
        parts = other.split('.')
        return 0 if {'ffn', 'ffns'} & set(parts[-2:]) else (
            2 if 'backbone' in parts else 1)

    yield from sorted(names, key=rank)


def _longer(model: nn.Module, pattern: str) -> Iterator[str]:
    """The pattern below each part that has something it matches."""
    length = str(pattern).count('.') + 1
    for name, _ in model.named_modules(remove_duplicate=False):
        parts = name.split('.')
        if len(parts) > length and matches('.'.join(parts[-length:]), pattern):
            yield '.'.join([*parts[:-length], pattern])


def _alike(model: nn.Module, pattern: str) -> List[str]:
    names = {
        one: None
        for name, _ in model.named_modules(remove_duplicate=False) if name
        for one in (name, _generalised(name))
    }
    return get_close_matches(str(pattern), names, n=6, cutoff=0.85)
