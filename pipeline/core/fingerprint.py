"""Digest the code that makes an output: modules and all that they import, without comments and docstrings.

An import inside a function counts, one for types alone does not: it is never executed. `importlib` finds a module's
file; modules of other distributions are not followed, since what they can change is rendered before a step begins and
is an input of its own. A parsed module is kept by the digest of its source beside Python's own compiled files, and
believed as those are.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import cache_from_source, find_spec
from pathlib import Path

from pipeline.core import documents
from pipeline.core.fs import read_limited, write_atomic

_KEPT = Path(cache_from_source(__file__)).with_suffix(".json")
_MOST = 2000  # parsed modules that are kept; older versions of edited ones among them


@dataclass(frozen=True)
class _Parsed:
    """SHA-256 of a module's code, and the dotted names in its import statements."""

    code: str
    names: tuple[str, ...]


@cache
def digest(*modules: str) -> str:
    """Return the SHA-256 of the code of `modules` and of all that they import of their own distribution.

    Raises `ModuleNotFoundError` for a module that is not there.
    """
    code = {name: parsed.code for name, parsed in _closure(modules).items()}
    return hashlib.sha256(json.dumps(code, sort_keys=True).encode()).hexdigest()


def closure(*modules: str) -> frozenset[str]:
    """Return the names of `modules` and of the modules that they import, directly or not, of their own distribution.

    Raises `ModuleNotFoundError` for a module that is not there.
    """
    return frozenset(_closure(modules))


def _closure(modules: tuple[str, ...]) -> dict[str, _Parsed]:
    kept = _load_kept()
    before = len(kept)
    found: dict[str, _Parsed] = {}
    pending = [(name, _source(name)) for name in modules]
    while pending:
        name, path = pending.pop()
        if path is None:
            raise ModuleNotFoundError(f"no module {name}", name=name)
        if name not in found:
            found[name] = parsed = _parsed(path.read_bytes(), kept)
            pending += [(each, source) for each, source in _imported(name, parsed) if each not in found]
    if len(kept) > before:
        _keep(kept)
    return found


def _imported(module: str, parsed: _Parsed) -> Iterator[tuple[str, Path | None]]:
    """Yield what `module` imports of its own distribution: `a.b.c` is a module or something in `a.b`."""
    top = module.partition(".")[0]
    for name in parsed.names:
        if name.partition(".")[0] == top:
            inner, _, last = name.rpartition(".")
            source = _source(name) if last != "*" else None
            yield (name, source) if source else (inner, _source(inner))


def _source(module: str) -> Path | None:
    """Return the file of a module, or None where there is no such module."""
    spec = _spec(module)
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@cache
def _spec(module: str) -> ModuleSpec | None:
    """Return how a module is found. `find_spec` executes what a name is looked for in: that may be a package only."""
    inside = module.rpartition(".")[0]
    above = _spec(inside) if inside else None
    if inside and (above is None or above.submodule_search_locations is None):
        return None
    return find_spec(module)


def _parsed(source: bytes, kept: dict[str, _Parsed]) -> _Parsed:
    key = hashlib.sha256(_own_source() + source).hexdigest()  # another version of this module may read it otherwise
    if key not in kept:
        tree = _Stripped().visit(ast.parse(source))
        code = ast.unparse(ast.fix_missing_locations(tree))
        kept[key] = _Parsed(hashlib.sha256(code.encode()).hexdigest(), tuple(sorted(set(_import_names(tree)))))
    return kept[key]


@cache
def _own_source() -> bytes:
    return Path(__file__).read_bytes()


class _Stripped(ast.NodeTransformer):
    """Remove docstrings, imports for types alone, and the version: a name for all of the code, which may not change."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """Keep only the other branch of `if TYPE_CHECKING:`."""
        self.generic_visit(node)
        return node.orelse if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING" else node

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Remove `__version__ = ...`."""
        return None if ast.unparse(node.targets[0]) == "__version__" else self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Remove what a body begins with when it is a docstring."""
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, clean=False
        ):
            node.body = node.body[1:] or [ast.Pass()]
        return super().generic_visit(node)


def _import_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache  # read once in a run; what is parsed then is added to it
def _load_kept() -> dict[str, _Parsed]:
    with contextlib.suppress(OSError, ValueError):
        return documents.parse(dict[str, _Parsed], read_limited(_KEPT, documents.MOST))
    return {}


def _keep(kept: dict[str, _Parsed]) -> None:
    newest = dict(list(kept.items())[-_MOST:])
    with contextlib.suppress(OSError):  # an installation that only its owner may write to: parsed in every run
        _KEPT.parent.mkdir(exist_ok=True)
        write_atomic(_KEPT, documents.to_json(newest))
