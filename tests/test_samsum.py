"""SAMSum: dialogues as they are but for their line ends, from files under any names of columns."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.tasks.base import TaskData, load_task
from tests.conftest import as_on_the_hub, composed, real_data

REKEYED = ["task.columns.dialogue=dialogue | context", "task.columns.summary=summary | response"]
ROW = {"id": "1", "dialogue": "Al: Hi\r\nBo: <file_gif>\n", "summary": "Al greets Bo. "}


def loaded(root: Path | None, *overrides: str) -> TaskData:
    folder = [f"task.data_dir={root}"] if root else []
    return load_task(composed("task=samsum", "model=llama2_7b", *folder, *overrides)).data


def files(**names: str) -> list[str]:
    return [f"task.sources.{split}.file={name}" for split, name in names.items()]


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    (folder / "samsum").mkdir(exist_ok=True)
    for split in ("train", "validation", "test"):
        (folder / f"samsum/{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def real() -> TaskData:
    test, validation = "samsum/test.jsonl", "samsum/validation_context_response.jsonl"
    real_data(validation)
    return loaded(real_data(test).parents[1], *files(train=test, validation=validation, test=test), *REKEYED)


def test_the_real_files_have_their_rows(real: TaskData) -> None:
    assert [len(real.splits[split]) for split in ("validation", "test")] == [818, 819]


def test_a_real_row_is_what_stands_in_the_file(real: TaskData) -> None:
    row = lines(real_data("samsum/test.jsonl"))[0]
    assert row["summary"] == "Hannah needs Betty's number but Amanda doesn't have it. She needs to contact Larry."
    assert real.splits["test"][0] == {
        "prompt": f"Summarize the following dialogue.\n\n{row['dialogue']}\n\nSummary:",
        "answer": f" {row['summary']}",
    }


def test_a_re_keyed_real_file_loads_with_its_line_ends_made_plain(real: TaskData) -> None:
    rows = lines(real_data("samsum/validation_context_response.jsonl"))
    assert sum("\r\n" in row["context"] for row in rows) == 710
    assert not any("\r" in row["prompt"] for row in real.splits["validation"])
    assert [row["answer"].strip() for row in real.splits["validation"]] == [row["response"].strip() for row in rows]


def test_prompts_end_without_a_space_and_answers_bring_just_one(real: TaskData) -> None:
    rows = [row for split in real.splits.values() for row in split]
    assert all(row["prompt"] == row["prompt"].rstrip() for row in rows)
    assert all(row["answer"] == f" {row['answer'].strip()}" for row in rows)


def test_a_row_without_a_dialogue_is_left_out(tmp_path: Path) -> None:
    data = loaded(write(tmp_path, [ROW, {**ROW, "dialogue": ""}, {**ROW, "dialogue": None}]))
    assert data.splits["train"] == [
        {
            "prompt": "Summarize the following dialogue.\n\nAl: Hi\nBo: <file_gif>\n\n\nSummary:",
            "answer": " Al greets Bo.",
        }
    ]


def test_the_hub_gives_the_rows_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*lines(real_data("samsum/test.jsonl"))[:40], ROW, {**ROW, "dialogue": ""}]
    first = loaded(write(tmp_path, rows)).fingerprint
    hub = [*rows[:-1], {**ROW, "dialogue": None}]
    as_on_the_hub(tmp_path / "samsum_on_hub", monkeypatch, {"train": hub, "validation": hub, "test": hub})
    assert loaded(None).fingerprint == first


def test_the_archives_own_json_lists_load_as_well(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps([ROW, ROW], indent=1))
    data = loaded(tmp_path, *files(train="train.json", validation="train.json", test="train.json"))
    assert [len(rows) for rows in data.splits.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"context": "Al: Hi", "response": "Al."},
            r"train\.jsonl:2 has no column 'dialogue'.\nIt has: context, response",
        ),
        ({**ROW, "summary": " "}, r"train\.jsonl:2 has an empty summary"),
        ([ROW], r"train\.jsonl:2 is a list, not an object"),
    ],
)
def test_bad_rows_are_named_with_their_line(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loaded(write(tmp_path, [ROW, row]))


def test_a_file_that_is_cut_off_or_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl doesn't exist"):
        loaded(tmp_path)
    train = write(tmp_path, [ROW]) / "samsum/train.jsonl"
    train.write_text(json.dumps(ROW)[:-9])
    with pytest.raises(UserError, match=r"train\.jsonl:1 is not complete JSON"):
        loaded(tmp_path)
    train.write_text("")
    with pytest.raises(UserError, match=r"train\.jsonl has no rows"):
        loaded(tmp_path)


def test_a_prompt_that_asks_for_an_unknown_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no column 'topic'"):
        loaded(write(tmp_path, [ROW]), "task.prompt='{topic}'")
