"""Every place in the code that orders work of a device, and a way to take each of them out.

Places are found in the source, so none can be forgotten: calls that wait or record, contexts that put work on the engine's own
stream, the memory of who took a tile, and finalizers that keep memory until a copy is over. What is knocked out is replaced
in the syntax tree, compiled, and put in the place of the function's code; whatever else the line evaluates stays.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.test_imports import MODULES

#: Calls that order work, or put it where it is in order.
CALLS = {"wait_event", "record", "synchronize", "_join", "_wait_for", "release", "computing", "reading", "filling"}
#: A module that has one of these words for an attribute is searched.
TELLING = {"wait_event", "computing", "filling", "landing", "_lender"}


@dataclass(frozen=True)
class Site:
    """One place: a module, a function as Python qualifies it, the text of the code, and which of several such texts."""

    module: str
    function: str
    text: str
    number: int = 0

    def __str__(self) -> str:
        again = f" ({self.number + 1})" if self.number else ""
        return f"{self.module.removeprefix('gpuio.')}:{self.function}: {self.text}{again}"


class _Finder(ast.NodeTransformer):
    """Finds sites in order; takes out the one wanted."""

    def __init__(self, module: str, wanted: Site | None = None) -> None:
        self.module, self.wanted = module, wanted
        self.function: list[str] = []
        self.sites: list[Site] = []

    def _is_wanted(self, node: ast.AST, note: str = "") -> bool:
        text = " ".join(ast.unparse(node).split()) + note
        site = Site(self.module, ".".join(self.function), text)
        number = sum(s.text == text and s.function == site.function for s in self.sites)
        self.sites.append(Site(site.module, site.function, text, number))
        return self.sites[-1] == self.wanted

    def _scope(self, node: Any) -> Any:
        self.function.append(node.name)
        node = self.generic_visit(node)
        self.function.pop()
        return node

    visit_FunctionDef = visit_ClassDef = _scope

    def visit_Call(self, node: ast.Call) -> Any:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        takes = name == "take" and "lender" in ast.unparse(node.func)
        if (name not in CALLS and not takes) or not self.function or self.function[-1] == name:
            return self.generic_visit(node)
        for keyword in node.keywords:
            if keyword.arg == "joined" and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False):
                if self.function[-1] == "computing":
                    continue            # passed on
                if self._is_wanted(node, ", not joined"):
                    keyword.value = ast.copy_location(ast.Constant(False), keyword.value)
                    return node
        if self._is_wanted(node):
            node = _nothing(node) if name in ("computing", "reading", "filling") else ast.copy_location(ast.Constant(None), node)
        return node

    def visit_With(self, node: ast.With) -> Any:
        """``with stream:`` makes a stream the current one."""
        for item in node.items:
            if isinstance(item.context_expr, ast.Attribute) and item.context_expr.attr == "compute" and self._is_wanted(item.context_expr):
                item.context_expr = _nothing(item.context_expr)
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> Any:
        """Who has to be waited for, and what outlives its owner."""
        target = ast.unparse(node.targets[0])
        if target.startswith("self._takers") and self._is_wanted(node):
            if "[" in target or ast.unparse(node.value) == "{}":
                return ast.copy_location(ast.Pass(), node)
            node.value = ast.copy_location(ast.Dict([], []), node.value)
            return node
        if "finalize" in target and self._is_wanted(node):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        """``staging.landing`` is ``staging.device`` after waiting."""
        if node.attr == "landing" and isinstance(node.ctx, ast.Load) and self._is_wanted(node):
            node.attr = "device"
        return self.generic_visit(node)

    def visit_Dict(self, node: ast.Dict) -> Any:
        """Streams to wait for: those who took a tile, and that of whoever asks for the next one."""
        for i, key in enumerate(node.keys):
            if key is not None and "caller" in ast.unparse(key) and self._is_wanted(node, ", without the caller"):
                del node.keys[i], node.values[i]
        return self.generic_visit(node)


def _nothing(node: Any) -> Any:
    """A context that does nothing, in the place of another one."""
    return ast.copy_location(ast.parse("__import__('contextlib').nullcontext()", mode="eval").body, node)


def sites() -> list[Site]:
    """All of them."""
    found = []
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Attribute) and node.attr in TELLING for node in ast.walk(tree)):
            finder = _Finder(module)
            finder.visit(tree)
            found += finder.sites
    return found


@contextmanager
def without(site: Site) -> Iterator[None]:
    """The code as it would be without one site."""
    path = MODULES[site.module]
    tree = _Finder(site.module, site).visit(ast.parse(path.read_text(encoding="utf-8")))
    code: types.CodeType = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
    owner: Any = importlib.import_module(site.module)
    names = site.function.split(".")
    for name in names:
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == name)
        owner = owner.__dict__[name]
        if not inspect.isclass(owner):
            break               # what is defined within a function is among its constants
    function = _function(owner)
    before = function.__code__
    assert code != before, f"{site} is not taken out"
    function.__code__ = code
    try:
        yield
    finally:
        function.__code__ = before


def _function(found: Any) -> types.FunctionType:
    function: Callable[..., Any] = found.fget if isinstance(found, property) else found
    unwrapped = inspect.unwrap(function)
    assert isinstance(unwrapped, types.FunctionType)
    return unwrapped
