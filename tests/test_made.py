"""A loader of one's own: what it makes is refused with the row before anything is trained, where it is no task's."""

import copy
import sys
import types
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config
from src.errors import UserError
from src.tasks.base import TaskData, load_task
from tests.conftest import composed

GOOD = [{"text": f"t{i}", "label": i % 2} for i in range(4)]
ASKED = [{"prompt": f"p{i}", "answer": "a"} for i in range(4)]


@lru_cache
def config_of(architecture: str) -> Config:
    return composed("task=sst2") if architecture == "classifier" else composed("task=gsm8k", "model=llama3_2_3b")


def refusal(made: object, monkeypatch: pytest.MonkeyPatch, cache: Path, architecture: str = "classifier") -> str:
    """What is said of a loader that makes this."""
    module = types.ModuleType("loader_of_a_test")
    module.load = lambda source: made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    config = copy.deepcopy(config_of(architecture))
    config.task.loader, config.task.options, config.cache_dir = "loader_of_a_test.load", {}, str(cache)
    with pytest.raises(UserError) as refused:
        load_task(config)
    assert len(str(refused.value).splitlines()) <= 2
    return str(refused.value).removeprefix("loader_of_a_test.load gives ")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"text": None}, "test row 3 without a text in 'text'."),
        ({"text": 7}, "test row 3 without a text in 'text'."),
        ({"text_pair": "b"}, "test row 3 a 'text_pair', which the first training row doesn't have."),
        ({"label": 2}, "test row 3 the label 2.\nAllowed: 0 to 1, the places in its label_names."),
        ({"label": -100}, "test row 3 the label -100.\n"),  # which torch's loss leaves out
        ({"label": "y"}, "test row 3 the label 'y'.\n"),
        ({"label": None}, "test row 3 the label None.\n"),
    ],
)
def test_a_row_that_is_no_classifier_s_is_refused(
    changed: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    splits = {"train": GOOD, "validation": GOOD, "test": [*GOOD[:3], {**GOOD[3], **changed}]}
    assert refusal(TaskData(splits, ["x", "y"]), monkeypatch, tmp_path).startswith(said)


def test_a_pair_s_second_text_and_a_number_are_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paired = {"train": [{**row, "text_pair": "b"} for row in GOOD], "test": GOOD}
    assert refusal(TaskData(paired, ["x", "y"]), monkeypatch, tmp_path / "1").startswith(
        "test row 0 without a text in 'text_pair'."
    )
    numbers = {"train": GOOD, "test": [{"text": "t", "label": float("nan")}]}
    assert refusal(TaskData(numbers, ["number"]), monkeypatch, tmp_path / "2").startswith("test row 0 the label nan")


@pytest.mark.parametrize("row", [{"answer": "a"}, {"prompt": "p"}, {"prompt": None, "answer": "a"}])
def test_a_row_that_is_no_writer_s_is_refused(
    row: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = TaskData({"train": [*ASKED, row], "test": ASKED}, [])
    assert refusal(made, monkeypatch, tmp_path, "causal_lm").startswith("train row 4 without a text in '")


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (None, "a NoneType.\nAllowed: TaskData of src.tasks.base"),
        ({"train": GOOD, "test": GOOD}, "a dict.\nAllowed: TaskData"),
        (TaskData({"test": GOOD}, ["x", "y"]), "no split train.\nIt gives: test."),
        (TaskData({}, ["x", "y"]), "no split train.\nIt gives: none."),
        (TaskData({"train": GOOD, "test": GOOD, "dev": GOOD}, ["x", "y"]), "a split 'dev', which nobody reads.\n"),
    ],
)
def test_what_is_no_task_s_rows_is_refused(
    made: object, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert refusal(made, monkeypatch, tmp_path).startswith(said)
