"""Tasks build the same rows from the same sources, with nothing shared between splits."""

from collections.abc import Callable
from pathlib import Path

import pytest

from src.config import Config, TaskConfig
from src.errors import UserError
from src.tasks import docstrings, reverse_words
from src.tasks.base import TaskData, load_task
from src.tasks.source import Source

WORDS = {"letters": "abc", "min_letters": 2, "max_letters": 3, "train_size": 20, "validation_size": 5, "test_size": 7}


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
    text = "Convert a NumPy array\n    to a torch.Tensor with np.asarray.\n\nMore text."
    assert docstrings.clean(text) == "Convert a <library> array to a <library>.Tensor with <library>.asarray."


def test_masking_leaves_longer_words_alone() -> None:
    assert docstrings.clean("The torchlight of a numpylike pythonic thing") == (
        "The torchlight of a numpylike pythonic thing"
    )


@pytest.mark.parametrize("text", ["Too short here", "x " * 400])
def test_texts_that_say_too_little_or_too_much_are_left_out(text: str) -> None:
    assert docstrings.clean(text) is None


def test_a_text_of_two_libraries_belongs_to_neither() -> None:
    found = docstrings.distinct_texts(
        {"a": iter(["Same text", "only a", "only a"]), "b": iter(["same text", "only b"])}
    )
    assert found == {"a": ["only a"], "b": ["only b"]}


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
    monkeypatch.setattr(docstrings, "LIBRARIES", {"one": None, "two": None})
    monkeypatch.setattr(docstrings, "_source_folder", lambda library: tmp_path / library)
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


def test_too_few_docstrings_are_refused(two_libraries: Path) -> None:
    with pytest.raises(UserError, match=r"asks for 12 texts a class; one has 9"):
        docstrings.load(source(two_libraries / "cache"), train_per_class=10, validation_per_class=1, test_per_class=1)


def test_a_task_is_loaded_once_per_process(tiny: Callable[..., Config]) -> None:
    config = tiny("task.options.data_seed=5")
    assert load_task(config).data is load_task(tiny("task.options.data_seed=5")).data
