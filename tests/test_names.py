"""A public name means one thing: no function, class or type of src is defined in two files."""

import ast
from collections import defaultdict

from tests.conftest import ROOT

# Names that stand in several files, each with the reason.
SHARED = {
    "main": "every command has one",
    "load": "every task and every format of export has one, which is called by this name",
    "refuse": "every format of export has one, which is called by this name",
    "write": "every format of export has one, which is called by this name",
    "run": "sandbox/inside.py is a program for itself, which imports nothing of src",
    "final_answer": "a metric reads it in a model's text, a task in the solutions of its file",
    "parsed": "every metric is a folder for itself: one parses queries, one Python",
}


def public_names(tree: ast.Module) -> set[str]:
    """The names that a module defines at its top: functions, classes, and types, which have no constant's name."""
    names = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name) and not target.id.isupper()}
    return {name for name in names if not name.startswith("_")}


def test_a_public_name_is_defined_in_one_file() -> None:
    files: dict[str, list[str]] = defaultdict(list)
    for path in sorted((ROOT / "src").rglob("*.py")):
        for name in public_names(ast.parse(path.read_text())):
            files[name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in files.items() if len(paths) > 1 and name not in SHARED} == {}


def test_names_of_functions_classes_and_types_are_public_and_others_are_not() -> None:
    code = "def a(): ...\nclass B: ...\nCells = list\nLIMIT = 3\ndef _d(): ...\nwith x: e = 1\n"
    assert public_names(ast.parse(code)) == {"a", "B", "Cells"}
