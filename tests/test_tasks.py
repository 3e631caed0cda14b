"""Tasks build the same rows from the same sources, with nothing shared between splits."""

import importlib.metadata
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config, TaskConfig
from src.errors import UserError
from src.tasks import docstrings, reverse_words
from src.tasks.base import TaskData, load_task
from src.tasks.source import Source
from tests.conftest import ROOT, composed

PINNED_ROWS = "bf06346d897adfe3"  # the default splits of docstrings, as Python 3.11 to 3.13 gave them
WORDS: dict[str, Any] = {
    "letters": "abc",
    "min_letters": 2,
    "max_letters": 3,
    "train_size": 20,
    "validation_size": 5,
    "test_size": 7,
}


def source(cache_dir: Path) -> Source:
    return Source(TaskConfig(name="t"), cache_dir)


def test_reverse_words_are_reversed_and_never_repeated() -> None:
    data = reverse_words.load(source(Path()), **WORDS, data_seed=3)
    rows = [row for split in data.splits.values() for row in split]
    assert [len(split) for split in data.splits.values()] == [20, 5, 7]
    assert all(row["prompt"] == "".join(reversed(row["answer"])) + ">" for row in rows)
    assert len({row["prompt"] for row in rows}) == 32


def test_reverse_words_depend_on_their_seed_alone() -> None:
    first, again, other = (
        reverse_words.load(source(Path()), **WORDS, data_seed=seed).fingerprint for seed in (3, 3, 4)
    )
    assert first == again != other


def test_more_words_than_exist_are_refused() -> None:
    with pytest.raises(UserError, match=r"asks for 112 words, but .* make only 36"):
        reverse_words.load(source(Path()), **{**WORDS, "train_size": 100}, data_seed=0)


def test_the_fingerprint_sees_every_row() -> None:
    rows = [{"text": "one", "label": 0}, {"text": "two", "label": 1}]
    whole = TaskData({"train": rows}, ["a", "b"]).fingerprint
    assert TaskData({"train": rows[::-1]}, ["a", "b"]).fingerprint != whole
    assert TaskData({"train": rows}, ["a", "c"]).fingerprint != whole


def test_a_docstring_is_cut_to_its_first_paragraph_and_masked() -> None:
    text = "Convert a SymPy matrix\n    to a pandas.DataFrame with pd.concat.\n\nMore text."
    assert docstrings.clean(text) == "Convert a <library> matrix to a <library>.DataFrame with <library>.concat."


def test_masking_leaves_longer_words_alone() -> None:
    assert docstrings.clean("A transformed scipylike plotlyesque thing") == "A transformed scipylike plotlyesque thing"


@pytest.mark.parametrize("name", ["Hugging Face", "scikit-learn", "plotly.js", "W&B", "Weights and Biases", "nx", "sm"])
def test_every_name_of_a_library_is_masked(name: str) -> None:
    assert docstrings.clean(f"Made by {name} for all") == "Made by <library> for all"


@pytest.mark.parametrize("text", ["Too short here", "x " * 400])
def test_texts_that_say_too_little_or_too_much_are_left_out(text: str) -> None:
    assert docstrings.clean(text) is None


def test_a_text_of_two_libraries_belongs_to_neither() -> None:
    texts = docstrings.distinct_texts(
        {"a": iter(["Same text", "only a", "only a"]), "b": iter(["same text", "only b"])}
    )
    assert texts == {"a": ["only a"], "b": ["only b"]}


@pytest.fixture
def two_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for library in ("one", "two"):
        functions = [
            f'def f{i}():\n    """Text number {i} of the library {library}.\n\n    Not this."""\n' for i in range(9)
        ]
        (tmp_path / library / "tests").mkdir(parents=True)
        (tmp_path / library / "code.py").write_text("\n".join(functions))
        (tmp_path / library / "broken.py").write_text("def (:")
        (tmp_path / library / "tests/test_it.py").write_text('"""A text that is only in the tests."""')
    libraries = {name: docstrings.Library(name, "1.0", name) for name in ("one", "two")}
    monkeypatch.setattr(docstrings, "LIBRARIES", libraries)
    monkeypatch.setattr(docstrings, "_source_folder", lambda library: tmp_path / library)
    monkeypatch.setattr(importlib.metadata, "version", lambda library: {"one": "1.0", "two": "2.5"}[library])
    return tmp_path


def test_docstrings_are_balanced_disjoint_and_cached(two_libraries: Path) -> None:
    sizes = {"train_per_class": 4, "validation_per_class": 2, "test_per_class": 3}
    data = docstrings.load(source(two_libraries / "cache"), **sizes)
    texts = [row["text"] for rows in data.splits.values() for row in rows]
    assert len(set(texts)) == len(texts) == 18
    assert all("Not this" not in text and "tests" not in text for text in texts)
    for split, count in zip(("train", "validation", "test"), (4, 2, 3), strict=True):
        labels = [row["label"] for row in data.splits[split]]
        assert sorted(labels) == [0] * count + [1] * count
        assert labels != sorted(labels) or split != "train"
    (two_libraries / "one/code.py").unlink()
    assert docstrings.load(source(two_libraries / "cache"), **sizes).fingerprint == data.fingerprint


@pytest.mark.parametrize("damage", [b"", b"\x1f\x8b", b"no gzip"])
def test_a_damaged_cache_is_built_again(two_libraries: Path, damage: bytes) -> None:
    sizes = {"train_per_class": 4, "validation_per_class": 2, "test_per_class": 3}
    whole = docstrings.load(source(two_libraries / "cache"), **sizes).fingerprint
    (cached,) = (two_libraries / "cache").iterdir()
    cached.write_bytes(damage)
    assert docstrings.load(source(two_libraries / "cache"), **sizes).fingerprint == whole


def test_files_whose_code_warns_are_read_all_the_same(two_libraries: Path) -> None:
    code = (two_libraries / "one/code.py").read_text()
    (two_libraries / "one/code.py").write_text(code + '\npattern = "\\d"\n')  # an invalid escape
    with warnings.catch_warnings(action="error"):
        data = docstrings.load(source(two_libraries), train_per_class=7, validation_per_class=1, test_per_class=1)
    assert len(data.splits["train"]) == 14


def test_too_few_docstrings_are_refused(two_libraries: Path) -> None:
    sizes = {"train_per_class": 1700, "validation_per_class": 10, "test_per_class": 10}  # not even pinned: 1,715
    with pytest.raises(UserError, match=r"asks for 1720 texts a class; one has 9"):
        docstrings.load(source(two_libraries / "cache"), **sizes)
    with pytest.raises(UserError, match=r"asks for 1000 texts a class; one has 9"):  # no split may be left empty
        docstrings.load(source(two_libraries / "cache"), train_per_class=990, validation_per_class=5, test_per_class=5)


def test_other_versions_are_named_and_give_what_they_have(two_libraries: Path) -> None:
    data = docstrings.load(source(two_libraries), train_per_class=12, validation_per_class=3, test_per_class=3)
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 12, "validation": 2, "test": 2}
    (note,) = data.notes
    assert note.endswith("results are kept apart: two 2.5 (pinned: 1.0); 8 texts a class, not 18")


def test_changed_files_of_the_pinned_versions_are_said(two_libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda library: "1.0")
    data = docstrings.load(source(two_libraries), train_per_class=4, validation_per_class=1, test_per_class=1)
    assert data.notes == [
        "task=docstrings: other rows than the pinned ones, so results are kept apart: the pinned versions, but with "
        "changed files"
    ]


def test_a_note_on_the_rows_is_a_warning_of_the_run(two_libraries: Path, tmp_path: Path) -> None:
    sizes = [f"task.options.{split}_per_class=2" for split in ("train", "validation", "test")]
    config = composed("task=docstrings", *sizes, f"cache_dir={tmp_path}")
    assert "other rows than the pinned ones" in load_task(config).warnings(config)[0]


def test_the_libraries_are_those_that_are_pinned() -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {name: library.version for name, library in docstrings.LIBRARIES.items()} == {
        name: pins[name] for name in docstrings.LIBRARIES
    }


@pytest.mark.slow
def test_the_pinned_libraries_give_the_pinned_rows_on_every_python(tmp_path: Path) -> None:
    versions = {name: importlib.metadata.version(name) for name in docstrings.LIBRARIES}
    if versions != {name: library.version for name, library in docstrings.LIBRARIES.items()}:
        pytest.skip(f"not the pinned versions: {versions}")
    task = load_task(composed(f"cache_dir={tmp_path}"))
    assert (task.fingerprint, task.data.notes) == (PINNED_ROWS, [])


def test_a_task_is_loaded_once_per_process(tiny: Callable[..., Config]) -> None:
    config = tiny("task.options.data_seed=5")
    assert load_task(config).data is load_task(tiny("task.options.data_seed=5")).data
