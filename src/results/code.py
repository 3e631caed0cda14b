"""The code that makes a result, as fingerprints.

A fingerprint covers a module and what it imports within its own package, down to modules that can't move a number.
Comments, docstrings, formatting, the names of modules and the version of Python don't change it; any other token does.
A run has four, so that a changed line of one method leaves the results of the others alone:

    method     the adapter's module
    loader     the task's loader
    metrics    the primary metric and those recorded beside it
    training   everything that all runs share, from `src.running.execute` down
"""

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from src.errors import UserError, nearest_first

ROOT = Path(__file__).resolve().parents[2]
Code = dict[str, str]  # part: fingerprint
SHARED = "src.running.execute"
# What these decide stands in the identity as values, or is reported beside the result; none of them computes a score.
NOT_DECISIVE = (
    "src.config.schema", "src.config.checks", "src.config.composition", "src.config.arguments", "src.config.steps",
    "src.results", "src.errors", "src.files", "src.hub", "src.quiet",
)  # fmt: skip
HEX_DIGITS = 16
# Fields that say how a constant was written, what a name is used for, or hold a type comment.
IGNORED_FIELDS = {"ctx", "kind", "type_comment"}


def code_of(method: str, loader: str, metrics: list[str]) -> Code:
    """The fingerprints of the code behind a run.

    Args:
        method: the adapter's class as a Python path.
        loader: the task's loader as a Python path.
        metrics: names of folders in `src/metrics`.

    Raises:
        UserError: there is no such class, or no such loader.
    """
    _check_defined("adapter.method", method)
    _check_defined("task.loader", loader)
    of_metrics = [fingerprint(f"src.metrics.{name}.{name}") for name in sorted(set(metrics))]
    return {
        "method": fingerprint(method.rpartition(".")[0]),
        "loader": fingerprint(loader.rpartition(".")[0]),
        "metrics": _digest(of_metrics),
        "training": fingerprint(SHARED),
    }


@lru_cache(maxsize=256)
def fingerprint(module: str) -> str:
    """Sixteen hex digits for a module's code and for all that it imports within its package or `src`.

    Raises:
        UserError: there is no such module.
    """
    path = _path(module)
    if path is None:
        raise UserError(f"{module} is no module of this installation.\nInstall it, or name another.")
    return _Walk(module.partition(".")[0]).module(module, path)


@lru_cache(maxsize=256)
def _check_defined(option: str, value: str) -> None:
    """Refuse a Python path that names nothing, without importing it; the name may be imported there, or assigned."""
    module, _, name = value.rpartition(".")
    path = _path(module) if module else None
    if path is None:
        raise UserError(f"{option}={value}: there is no module '{module}'.\nAllowed: <module>.<name>, as in conf.")
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [node.name for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {(node.asname or node.name) for node in nodes if isinstance(node, ast.alias)}
    if name not in bound.union(names):
        public = [defined for defined in nearest_first(name, names) if not defined.startswith("_")]
        allowed = ", ".join(f"{module}.{defined}" for defined in public)
        raise UserError(f"{option}={value}: {module} has no '{name}'.\nAllowed: {allowed or 'nothing there'}.")


class _Walk:
    """Modules' trees as tokens, in which an imported module's name is replaced by the digest of its code."""

    def __init__(self, package: str) -> None:
        self.packages = {"src", package}
        self.digests: dict[str, str] = {}

    def module(self, name: str, path: Path) -> str:
        """The digest of a module's code; none for one that is being walked already, as it imports itself in a circle."""
        if name not in self.digests:
            self.digests[name] = ""
            tree = _with_absolute_imports(ast.parse(path.read_text(encoding="utf-8")), name, path)
            self.digests[name] = _digest(self.tokens(tree))
        return self.digests[name]

    def tokens(self, node: ast.AST) -> Iterator[str]:
        """The tree as text, by the names of its non-empty fields: what a Python version adds is empty in our code."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from self._imported(node)
            return
        yield f"({type(node).__name__}"
        for field, value in ast.iter_fields(node):
            if field not in IGNORED_FIELDS and value is not None and value != []:
                yield f"{field}="
                for child in value if isinstance(value, list) else [value]:
                    yield from self._child(child)
        yield ")"

    def _child(self, child: Any) -> Iterator[str]:
        if not isinstance(child, ast.AST):
            yield f"{type(child).__name__} {child!r}"
        elif not _has_no_effect(child):
            yield from self.tokens(child)

    def _imported(self, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        """An import's names with the code behind them; modules that can't move a number are left out."""
        source = (node.module or "") if isinstance(node, ast.ImportFrom) else None
        for alias in node.names:
            whole = alias.name if source is None else f"{source}.{alias.name}"
            if whole.partition(".")[0] not in self.packages:
                yield f"import {whole} {alias.asname}"
            elif not any(f"{whole}.".startswith(f"{module}.") for module in NOT_DECISIVE):
                name = whole if _path(whole) else source or whole  # a module itself, or a name in one
                path = _path(name)
                yield f"from {self.module(name, path) if path else name} import {alias.name} {alias.asname}"


def _with_absolute_imports(tree: ast.Module, name: str, path: Path) -> ast.Module:
    """Write the relative imports of the module `name` as absolute ones."""
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            node.module = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
    return tree


def _has_no_effect(node: ast.AST) -> bool:
    """Whether a statement is a text that stands alone, as docstrings do, or is there for the type checker."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _path(module: str) -> Path | None:
    """The file of a module, found without importing it where it is ours."""
    if module.partition(".")[0] == "src":
        stem = ROOT.joinpath(*module.split("."))
        return next((path for path in (stem.with_suffix(".py"), stem / "__init__.py") if path.is_file()), None)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _digest(tokens: Any) -> str:
    return hashlib.sha256("\n".join(tokens).encode()).hexdigest()[:HEX_DIGITS]
