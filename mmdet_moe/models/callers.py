"""How the modules around a module use it: by a look at their source.

A detector's parts do more with their layers than call them with one tensor:
they hand over a second tensor, read the weights of a convolution, or call the
parts of a block one by one. None of that works with a mixture of experts.
"""
import ast
import inspect
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Dict, Iterator, List, Optional, Tuple

from torch import nn

#: Methods that build a module or its weights, before or beside its use.
_BUILDING = ('__init__', 'init_weights', '_init_', 'init_', '_build', 'build_',
             'reset_parameters', '_reset_parameters', '_freeze', 'extra_repr',
             '_load_from_state_dict', '_make')
#: How far up an owner of a module may be.
_DEPTH = 3

Path = Tuple[str, ...]


@dataclass(frozen=True)
class Use:
    """A place where a class uses a module that it has.

    Attributes:
        path: From the object to the module, ``'*'`` for an index.
        method: Where, as ``'Class.method'``.
        inputs: The arguments of a call, as they are written; None where it is
            no call.
        reads: The attribute that is read; ``'[]'`` for a part by its index
            or in a loop; None where it is a call.
    """
    path: Path
    method: str
    inputs: Optional[Tuple[str, ...]] = None
    reads: Optional[str] = None


def uses_of(model: nn.Module, name: str) -> Iterator[Use]:
    """The uses of a module by what contains it, as far as they can be seen.

    Args:
        model: Has the module.
        name: The module's dotted name.
    """
    parts = name.split('.')
    for depth in range(1, min(_DEPTH, len(parts)) + 1):
        owner = model.get_submodule('.'.join(parts[:-depth]))
        path = tuple(
            '*' if part.isdecimal() else part for part in parts[-depth:])
        if path[0] == '*':
            continue  # of a list, which another owner indexes
        for cls in type(owner).__mro__:
            if cls in (nn.Module, object):
                break
            yield from (use for use in _uses_in(cls) if use.path == path)


@cache
def _uses_in(cls: type) -> Tuple[Use, ...]:
    """The uses of any part by the methods of a class."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return ()
    found: List[Use] = []
    for method in tree.body[0].body:
        if (isinstance(method, ast.FunctionDef)
                and not method.name.startswith(_BUILDING)
                and 'staticmethod' not in map(
                    ast.unparse, method.decorator_list)):
            found += _Reader(f'{cls.__name__}.{method.name}').read(method)
    return tuple(found)


class _Reader(ast.NodeVisitor):
    """Collects the uses in a method; variables that hold a part are known."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.held: Dict[str, Path] = {}
        self.found: List[Use] = []

    def read(self, method: ast.FunctionDef) -> List[Use]:
        for node in ast.walk(method):  # loops and assignments first
            if isinstance(node, (ast.For, ast.comprehension)):
                self._hold_items(node.target, node.iter)
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                self._hold(node.targets[0], self._path(node.value))
        self.visit(method)
        return self.found

    def _hold(self, target: ast.expr, path: Optional[Path]) -> None:
        if isinstance(target, ast.Name) and path:
            self.held[target.id] = path

    def _hold_items(self, target: ast.expr, items: ast.expr) -> None:
        called = isinstance(items, ast.Call) and isinstance(
            items.func, ast.Name) and items.func.id
        if called == 'enumerate' and items.args and isinstance(
                target, ast.Tuple) and len(target.elts) == 2:
            self._hold_items(target.elts[1], items.args[0])
        elif called == 'zip' and isinstance(target, ast.Tuple):
            for one, item in zip(target.elts, items.args):
                self._hold_items(one, item)
        else:
            path = self._path(items)
            if path:
                self._add(path, reads='[]')
                self._hold(target, (*path, '*'))

    def _path(self, node: ast.expr) -> Optional[Path]:
        """From ``self`` to what an expression is, if it is a part of it."""
        if isinstance(node, ast.Name):
            return () if node.id == 'self' else self.held.get(node.id)
        if isinstance(node, ast.Attribute):
            before = self._path(node.value)
            return None if before is None else (*before, node.attr)
        if isinstance(node, ast.Subscript):
            before = self._path(node.value)
            return (*before, '*') if before else None
        return None

    def _add(self, path: Path, **how) -> None:
        self.found.append(Use(path, self.method, **how))

    def visit_Call(self, node: ast.Call) -> None:
        path = self._path(node.func)
        if path:
            self._add(path, inputs=tuple(
                ast.unparse(argument) for argument in (
                    *node.args, *node.keywords)))
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        path = self._path(node.value)
        if path:
            self._add(path, reads=node.attr)
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        path = self._path(node.value)
        if path:
            self._add(path, reads='[]')
        self.generic_visit(node)
