"""Which rooms of the code know of which: seen in a fresh process each, by what an import brings with it."""

import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import src
from tests.conftest import ROOT

PURE = ["src.adapters", "src.metrics", "src.analysis"]  # the statistics are part of the analysis
COMMANDS = {"run", "tune", "decide", "status", "retry", "verify", "tables", "figures", "report", "params", "inspect",
            "export"}  # fmt: skip
LEAVES = {"caches", "console", "credentials", "errors", "files", "hub", "interrupts", "quiet", "quoting", "streams",
          "threads"}  # fmt: skip


def modules_of(package: str) -> list[str]:
    """The package's name and those of all modules in it."""
    path = ROOT / package.replace(".", "/")
    if not path.is_dir():
        return [package]
    return [package, *(module.name for module in pkgutil.walk_packages([str(path)], f"{package}."))]


def test_methods_metrics_and_analysis_know_nothing_of_hydra_and_the_config() -> None:
    look = (
        "sorted(name for name in sys.modules if name.split('.')[0] in ('hydra', 'omegaconf') or name == 'src.config')"
    )
    # One process for all, which takes long to import; the first package that brings them is seen.
    code = "import sys\n" + "\n".join(
        f"import {', '.join(modules_of(package))}\nprint('{package}', {look})" for package in PURE
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{package} []" for package in PURE], done.stdout + done.stderr


def imports(path: Path) -> set[str]:
    """The modules of `src` that a file imports when it is imported itself: not in functions, not for types alone."""
    modules: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("src"):
            modules |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {name.name for name in node.names if name.name.startswith("src")}
    return modules


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {module.name for module in pkgutil.walk_packages([str(ROOT / "src")], f"{src.__name__}.")}
    path_of = {name: ROOT / (name.replace(".", "/") + ".py") for name in names}
    needs = {name: imports(path) & names for name, path in path_of.items() if path.exists()}
    while leaves := {name for name, needed in needs.items() if not needed & needs.keys()}:
        needs = {name: needed for name, needed in needs.items() if name not in leaves}
    assert not needs


def test_the_loose_files_are_commands_and_leaves() -> None:
    assert {path.stem for path in (ROOT / "src").glob("*.py")} == COMMANDS | LEAVES | {"__init__"}
    imported = {name for leaf in LEAVES for name in imports(ROOT / f"src/{leaf}.py")}
    assert imported == {"src.errors", "src.errors.UserError", "src.errors.first_line"}
