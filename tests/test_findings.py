"""What can't be learned, told apart or scored is said before training; a part or a value that is missing is refused."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import Config, SourceConfig, TaskConfig
from src.errors import UserError
from src.tasks import arithmetic, commonsense, glue, imdb, samsum
from src.tasks.base import TaskData, load_task
from src.tasks.findings import findings
from src.tasks.scorable import check_metrics
from src.tasks.source import Source
from tests.conftest import composed

Rows = list[dict[str, Any]]


def classes(*labels: int, text: str = "text {}") -> Rows:
    return [{"text": text.format(index), "label": label} for index, label in enumerate(labels)]


def answers(*texts: str, prompt: str = "prompt {}") -> Rows:
    return [{"prompt": prompt.format(index), "answer": text} for index, text in enumerate(texts)]


def found(train: Rows, test: Rows, names: list[str], validation: Rows | None = None, **settings: Any) -> list[str]:
    validation = test if validation is None else validation
    task = replace(composed().task, **settings)
    return findings({"train": train, "validation": validation, "test": test}, names, task)


@pytest.mark.parametrize(
    ("train", "test", "names", "said"),
    [
        (classes(0, 1, 1), classes(0, 1), ["a", "b"], []),
        (classes(0, 0, 0), classes(0, 1), ["a", "b"],
         ["all train items have one class, a", "1 of 2 test items have a class that no train item has: b"]),
        (classes(0, 1, 2), classes(1, 1), ["a", "b", "c"], ["all test items have one class, b"]),
        (classes(0, 1), classes(0), ["a", "b"], []),
        (classes(0, 1), classes(2, 3, 3, 4, 5, 6, 7), list("abcdefgh"),
         ["7 of 7 test items have a class that no train item has: c, d, e, f, g, ..."]),
        (classes(0, 1, text="same"), classes(0, 1), ["a", "b"], ["all 2 train items have the same text"]),
        (classes(0, 1, 0, text=" "), classes(0, 1), ["a", "b"],
         ["3 of 3 train items have an empty text", "all 3 train items have the same text"]),
        ([{"text": "a", "text_pair": "", "label": 0}, {"text": "b", "text_pair": "c", "label": 1}], classes(0, 1),
         ["a", "b"], ["1 of 2 train items have an empty text"]),
        (classes(1, 2), classes(3, 3), ["number"], ["all test items have the same number, 3"]),
        (answers(" a", " b"), answers(" a"), [], []),
        (answers(" ", " b", ""), answers("\n"), [],
         ["2 of 3 train items have an empty answer", "1 of 1 test items have an empty answer"]),
        (answers("a", "b", prompt="What?"), answers("a"), [], ["all 2 train items have the same text"]),
        (answers("a"), [{"turns": ["one", "two"]}], [], []),
    ],
)  # fmt: skip
def test_rows_from_which_little_is_learned_are_said(train: Rows, test: Rows, names: list[str], said: list[str]) -> None:
    assert found(train, test, names) == said


def test_a_validation_split_of_its_own_is_looked_at_too() -> None:
    assert found(classes(0, 1), classes(0, 1), ["a", "b"], classes(1, 1)) == ["all validation items have one class, b"]


# ---- metrics


@pytest.mark.parametrize(
    ("metric", "more", "rows", "labels", "fits"),
    [
        ("accuracy", ["f1"], classes(0, 1), 2, True),
        ("accuracy", ["f1"], classes(0, 1, 2), 3, False),
        ("accuracy", ["matthews_correlation"], classes(0, 1, 2), 3, True),
        ("accuracy", ["bleu"], classes(0, 1), 2, False),
        ("spearman", ["pearson"], classes(0, 1), 1, True),
        ("pearson", ["accuracy"], classes(0, 1), 1, False),
        ("bleu", ["rouge_l"], [{"prompt": "p", "answer": "a", "reference": ["a", "b"]}], 0, True),
        ("exact_match", [], [{"prompt": "p", "answer": "a", "reference": ["a", "b"]}], 0, False),
        ("bleu", ["exact_match"], [{"prompt": "p", "answer": "a", "reference": ["a"]}], 0, False),
        ("judge_rating", [], [{"turns": ["a"], "reference": "{}"}], 0, True),
        ("rouge_l", [], [{"turns": ["a"], "reference": "{}"}], 0, False),
        ("judge_rating", ["rouge_l"], [{"turns": ["a"], "reference": "{}"}], 0, False),
        ("judge_rating", [], answers("a"), 0, False),
    ],
)
def test_metrics_are_those_that_the_rows_can_be_scored_with(
    metric: str, more: list[str], rows: Rows, labels: int, fits: bool
) -> None:
    architecture = "classifier" if labels else "causal_lm"
    task = TaskConfig(name="t", architecture=architecture, metric=metric, more_metrics=more)
    if fits:
        check_metrics(task, rows, labels)
    else:
        with pytest.raises(UserError, match=r"can't score task=t, (.|\n)*Allowed: "):
            check_metrics(task, rows, labels)


def mnli(folder: Path, *overrides: str) -> Config:
    """MNLI with a few rows of its own columns."""
    (folder / "glue/MNLI").mkdir(parents=True)
    lines = [f"one {i}\ttwo {i}\t{label}\n" for i, label in enumerate(["entailment", "neutral", "contradiction"] * 3)]
    for name in ("train", "dev_matched", "dev_mismatched"):
        (folder / f"glue/MNLI/{name}.tsv").write_text("sentence1\tsentence2\tgold_label\n" + "".join(lines))
    return composed("task=mnli", f"task.data_dir={folder}", "task.validation_size=2", *overrides)


def test_f1_of_three_classes_is_refused_before_training_in_every_task(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        load_task(mnli(tmp_path, "task.more_metrics=[f1]"))
    assert str(refused.value) == (
        "task.more_metrics=[f1] can't score task=mnli, which has 3 classes.\nAllowed: accuracy, matthews_correlation."
    )


# ---- the loaders of published data


def source(folder: Path, rows: Rows, **task: Any) -> Source:
    """A task whose parts are all one file of these rows."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = {part: SourceConfig(file="rows.jsonl") for part in task.pop("parts", ("train", "validation", "test"))}
    return Source(TaskConfig(name="t", data_dir=str(folder), sources=parts, **task), Path())


DIALOGUE: dict[str, Any] = {"columns": {"dialogue": "dialogue", "summary": "summary"}, "prompt": "{dialogue}\n"}
QUESTION: dict[str, Any] = {"columns": {"question": "question", "solution": "answer"}, "prompt": "{question}"}
CHOICE = {
    "instruction": "Is it?\n\nAnswer format: true/false",
    "output": "the correct answer is true",
    "answer": "true",
}
NO_TEXTS = [["a"], True, 7, 1.5, None]


@pytest.mark.parametrize(
    ("load", "row", "column", "task", "values"),
    [
        (samsum.load, {"dialogue": "a"}, "summary", DIALOGUE, [["a"], True, 7, 1.5]),  # null is an empty summary
        (arithmetic.load, {"question": "a"}, "answer", QUESTION, [["a"], True, None]),  # a number is a bare answer
        (arithmetic.load, {"answer": "#### 1"}, "question", QUESTION, NO_TEXTS),
        (commonsense.load, CHOICE, "output", {"prompt": "{instruction}"}, NO_TEXTS),
        (commonsense.load, CHOICE, "instruction", {"prompt": "{instruction}"}, NO_TEXTS),
        (imdb.load, {"label": 0}, "text", {}, NO_TEXTS),
        (partial(glue.load, labels=["a", "b"]), {"label": 0}, "text", {"columns": {"text": "text", "label": "label"}},
         NO_TEXTS),
    ],
    ids=["samsum summary", "arithmetic answer", "arithmetic question", "commonsense output", "commonsense instruction",
         "imdb text", "glue text"],
)  # fmt: skip
def test_what_is_no_text_is_refused_by_every_loader(
    load: Any, row: dict[str, Any], column: str, task: dict[str, Any], values: list[Any], tmp_path: Path
) -> None:
    for value in values:
        with pytest.raises(UserError, match=r"rows.jsonl:1 has .* where a text must be\.\n(Give|Allowed: a text)"):
            load(source(tmp_path, [row | {column: value}], **task))


def test_a_dialogue_that_is_null_is_left_out_and_said(tmp_path: Path) -> None:
    rows: Rows = [{"dialogue": None, "summary": "s"}, {"dialogue": "d", "summary": "s"}]
    data: TaskData = samsum.load(source(tmp_path, rows, **DIALOGUE))
    assert [len(split) for split in data.splits.values()] == [1, 1, 1]
    assert data.notes[0] == "task=t: 1 of 2 train items have no dialogue and are left out"


@pytest.mark.parametrize("parts", [("train", "validation"), ("train", "test"), ("validation", "test"), ()])
def test_a_part_that_was_deleted_is_named_with_those_there_are(parts: tuple[str, ...], tmp_path: Path) -> None:
    missing = next(part for part in ("train", "validation", "test") if part not in parts)
    with pytest.raises(UserError) as refused:
        samsum.load(source(tmp_path, [{"dialogue": "d", "summary": "s"}], parts=parts, **DIALOGUE))
    said = str(refused.value)
    assert said.startswith(f"task=t needs the part '{missing}', which task.sources doesn't have.\nIt has: ")
    assert f"task.sources.{missing}.file=..." in said


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("task", ["gsm8k", "sst2", "imdb", "boolq"])
def test_a_task_without_one_of_its_splits_is_refused(task: str, part: str, tmp_path: Path) -> None:
    files = {
        "gsm8k/{}.jsonl": json.dumps({"question": "1?", "answer": "#### 1"}) + "\n",
        "glue/SST-2/{}.tsv": "sentence\tlabel\na\t0\n",
        "imdb/{}.jsonl": json.dumps({"text": "a", "label": 0}) + "\n",
        "commonsense/boolq/{}.json": json.dumps([CHOICE]),
    }
    for name, content in files.items():
        for split in ("train", "dev", "test"):
            (tmp_path / name.format(split)).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name.format(split)).write_text(content)
    model = ["model=llama2_7b"] if task in ("gsm8k", "boolq") else []
    config = composed(f"task={task}", *model, f"task.data_dir={tmp_path}", f"~task.sources.{part}", "protocol=paper")
    with pytest.raises(UserError, match=rf"needs the part '{part}'|task={task} has no rows for {part}"):
        load_task(config)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "Add: {a}\n"}, []),
        ({"prompt": r"Add: {a}\n", "stop": ["\n"]},
         [r"task.prompt spells out \n; a line break is written task.prompt=$'...\n...' in a shell"]),
        ({"stop": [r"\t", "#"]}, [r"task.stop spells out \t; a tab is written task.stop=$'...\t...' in a shell"]),
    ],
)  # fmt: skip
def test_a_line_break_that_is_spelled_out_is_said(settings: dict[str, Any], said: list[str]) -> None:
    assert found(answers("1", "2"), answers("3"), [], **settings) == said
