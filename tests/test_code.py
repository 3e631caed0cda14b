"""A fingerprint of code changes with what the code does, and with nothing else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from src.errors import UserError
from src.results import code
from src.results.code import Code, code_of, fingerprint
from tests.conftest import ROOT

LORA = ("src.adapters.lora.LoRA", "src.tasks.docstrings.load", ["accuracy"])
DORA = ("src.adapters.dora.DoRA", "src.tasks.glue.load", ["f1"])
Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Edit:
    """Replaces a text in a file of a copy of `src`, which is the code from then on."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", tmp_path)

    def replace(file: str, old: str, new: str) -> None:
        path = tmp_path / "src" / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        fingerprint.cache_clear()

    fingerprint.cache_clear()
    return replace


def changed(before: Code, after: Code) -> set[str]:
    return {part for part in before if before[part] != after[part]}


@pytest.mark.parametrize(
    ("file", "old", "new", "parts"),
    [
        ("adapters/lora.py", "self.lora_B, self.scaling)", "self.lora_B, -3 * self.scaling)", {"method"}),
        ("tasks/docstrings.py", "= 4, 300", "= 4, 301", {"loader"}),
        ("metrics/accuracy/accuracy.py", "==", "!=", {"metrics"}),
        ("training/loss.py", "mean", "sum", {"training"}),
        ("streams.py", "sha256", "sha512", {"training"}),
        ("models/base_model.py", "normal_(0.0, 0.02", "normal_(0.0, 0.03", {"training"}),
    ],
)
def test_a_changed_token_changes_the_part_that_it_is_in(
    edit: Edit, file: str, old: str, new: str, parts: set[str]
) -> None:
    before = code_of(*LORA)
    edit(file, old, new)
    assert parts <= changed(before, code_of(*LORA)) <= parts | {"method", "loader"}


def test_a_changed_line_of_one_method_leaves_the_others_alone(edit: Edit) -> None:
    before = code_of(*DORA)
    edit("adapters/lora.py", "self.lora_B, self.scaling)", "self.lora_B, -3 * self.scaling)")
    edit("tasks/docstrings.py", "= 4, 300", "= 4, 301")
    edit("metrics/accuracy/accuracy.py", "==", "!=")
    assert not changed(before, code_of(*DORA))


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("adapters/lora.py", "class LoRA", "# Low-rank adaptation.\nclass LoRA"),
        ("adapters/lora.py", '"""', '"""Another docstring. '),
        ("training/loss.py", "\n\n\ndef ", "\n\n\n\n\ndef "),
        ("training/loss.py", "(", "(  # why\n"),
        ("tasks/docstrings.py", '"""', "'''"),
    ],
)
def test_comments_docstrings_and_formatting_change_nothing(edit: Edit, file: str, old: str, new: str) -> None:
    before = code_of(*LORA)
    edit(file, old, new)
    if new == "'''":
        edit(file, old, new)
    assert code_of(*LORA) == before


def test_a_renamed_file_changes_nothing(edit: Edit) -> None:
    before = code_of(*LORA)
    (code.ROOT / "src/adapters/lora.py").rename(code.ROOT / "src/adapters/low_rank.py")
    for path in code.ROOT.rglob("*.py"):
        path.write_text(path.read_text().replace("src.adapters.lora ", "src.adapters.low_rank "))
    fingerprint.cache_clear()
    assert code_of("src.adapters.low_rank.LoRA", *LORA[1:]) == before


def test_the_same_name_from_another_module_is_other_code(edit: Edit) -> None:
    edit("adapters/lora.py", "import torch\n", "import torch\nfrom src.training.loss import mean_loss\n")
    before = code_of(*LORA)
    edit("adapters/lora.py", "from src.training.loss import", "from src.training.scoring import")
    assert changed(before, code_of(*LORA)) == {"method"}


def test_what_only_reports_is_no_part_of_the_code(edit: Edit) -> None:
    before = code_of(*LORA)
    edit("results/provenance.py", '"plotly"', '"plotly", "rich"')
    edit("errors.py", '"""', '"""Other. ')
    edit("config/checks.py", '"bf16", "fp32"', '"bf16", "fp32", "fp16"')
    assert code_of(*LORA) == before


def test_a_method_of_ones_own_package_is_read_with_what_it_imports_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "my_methods"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text("from .inner import scale\n")
    (package / "inner.py").write_text("scale = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    fingerprint.cache_clear()
    before = fingerprint("my_methods.mine")
    (package / "inner.py").write_text("scale = 2\n")
    fingerprint.cache_clear()
    assert fingerprint("my_methods.mine") != before


@pytest.mark.parametrize(
    ("method", "loader", "message"),
    [
        ("src.adapters.nosuch.X", LORA[1], r"adapter\.method=.*: there is no module 'src\.adapters\.nosuch'"),
        ("LoRA", LORA[1], r"adapter\.method=LoRA: there is no module ''"),
        ("src.adapters.lora.LoRa", LORA[1], r"has no 'LoRa'\.\nAllowed: src\.adapters\.lora\.LoRA"),
        (
            LORA[0],
            "src.tasks.docstrings.laod",
            r"task\.loader=.* has no 'laod'\.\nAllowed: src\.tasks\.docstrings\.load",
        ),
        (LORA[0], "no_package.load", r"there is no module 'no_package'"),
    ],
)
def test_a_path_that_names_nothing_is_refused_with_what_there_is(method: str, loader: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        code_of(method, loader, ["accuracy"])


SHOW = "import json; from src.results.code import fingerprint; print(json.dumps([fingerprint(name) for name in {}]))"


def other_pythons() -> list[str]:
    """Other versions of Python on this machine: on the path, or where pyenv keeps them."""
    names = [f"python3.{minor}" for minor in range(11, 15) if minor != sys.version_info.minor]
    kept = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [shutil.which(name) for name in names] + [str(path) for path in kept.glob("3.1[1-4].*/bin/python")]
    return [place for place in places if place]


@pytest.mark.slow
def test_every_python_gives_the_same_fingerprints() -> None:
    pythons = other_pythons()
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for folder in ("src", "tests")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if "plugins" not in path.parts and path.stem != "__init__"
    ]
    script = SHOW.format([name for name in modules if name.startswith("src.")])
    answers = {}
    for python in pythons:
        done = subprocess.run([python, "-c", script], cwd=ROOT, capture_output=True, text=True)
        if done.returncode == 0:  # a shim without a version behind it answers with an error
            answers[python] = json.loads(done.stdout)
    if not answers:
        pytest.skip("no other version of Python here")
    fingerprint.cache_clear()
    expected = [fingerprint(name) for name in modules if name.startswith("src.")]
    assert all(answer == expected for answer in answers.values())
