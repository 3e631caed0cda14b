"""IMDB: the same rows from jsonl files and from the hub, both classes from the first rows on."""

import json
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.tasks.base import LoadedTask, TaskData, load_task
from tests.conftest import REAL_DATA, as_on_the_hub, composed, real_data


def loaded(cache: Path, *overrides: str) -> LoadedTask:
    return load_task(composed("task=imdb", "model=minilm", f"cache_dir={cache}", *overrides))


def by_hand(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def write_jsonl(root: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    (root / "imdb").mkdir(parents=True)
    for split, records in splits.items():
        (root / f"imdb/{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def made_up(split: str, count: int) -> list[dict[str, Any]]:
    texts = [f"{split} review {i}:<br /><br />\u0085a \u2028Café " for i in range(count)]
    half = count // 2
    return [{"id": f"{split}/{i}", "text": text, "label": int(i >= half)} for i, text in enumerate(texts)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "root", {"train": made_up("train", 40), "test": made_up("test", 30)})


@pytest.fixture(scope="module")
def real_task(tmp_path_factory: pytest.TempPathFactory) -> LoadedTask:
    real_data("imdb/train.jsonl")
    return loaded(tmp_path_factory.mktemp("imdb"), f"task.data_dir={REAL_DATA}")


@pytest.fixture(scope="module")
def real(real_task: LoadedTask) -> TaskData:
    return real_task.data


def test_the_real_subset_is_whole_and_unchanged(real: TaskData) -> None:
    rows = {"train": real.splits["train"] + real.splits["validation"], "test": real.splits["test"]}
    for split, own in rows.items():
        assert len(own) == 2_500
        assert sum(row["label"] for row in own) == 1_250
        lines = by_hand(real_data(f"imdb/{split}.jsonl"))
        assert {(row["text"], row["label"]) for row in own} == {(line["text"], line["label"]) for line in lines}
    assert real.label_names == ["neg", "pos"]
    assert any("<br /><br />" in row["text"] for row in rows["test"])


def test_the_first_rows_of_every_split_are_of_both_classes(real: TaskData) -> None:
    for rows in real.splits.values():
        assert 16 <= sum(row["label"] for row in rows[:64]) <= 48


def test_files_and_hub_give_the_same_rows_whatever_their_order(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from_files = loaded(tmp_path, f"task.data_dir={root}", "task.validation_size=9").data
    columns = ("text", "label")
    splits = {
        split: [{column: record[column] for column in columns} for record in made_up(split, count)[::-1]]
        for split, count in (("train", 40), ("test", 30))
    }
    as_on_the_hub(tmp_path / "hub", monkeypatch, splits, config="plain_text")
    from_hub = loaded(tmp_path, "task.validation_size=9").data
    assert from_hub.fingerprint == from_files.fingerprint
    assert [len(rows) for rows in from_hub.splits.values()] == [31, 9, 30]


def test_real_reviews_are_the_same_rows_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = {split: by_hand(real_data(f"imdb/{split}.jsonl"))[::50] for split in ("train", "test")}
    root = write_jsonl(tmp_path / "root", records)
    from_files = loaded(tmp_path, f"task.data_dir={root}", "task.validation_size=9").data
    without_ids = {
        split: [{"text": own["text"], "label": own["label"]} for own in of_split] for split, of_split in records.items()
    }
    as_on_the_hub(tmp_path / "hub", monkeypatch, without_ids, config="plain_text")
    assert loaded(tmp_path, "task.validation_size=9").data.fingerprint == from_files.fingerprint


def test_validation_reviews_are_held_out_of_train_the_same_every_time(real: TaskData, tmp_path: Path) -> None:
    assert [len(rows) for rows in real.splits.values()] == [1_500, 1_000, 2_500]
    texts = {split: {row["text"] for row in rows} for split, rows in real.splits.items()}
    assert not texts["train"] & texts["validation"]
    assert loaded(tmp_path, f"task.data_dir={REAL_DATA}").data.fingerprint == real.fingerprint


@pytest.mark.parametrize("overrides", [["protocol=paper"], ["task.validation_size=250"]])
def test_test_reviews_that_were_trained_on_are_counted(overrides: list[str], tmp_path: Path) -> None:
    train, test = ({line["text"] for line in by_hand(real_data(f"imdb/{split}.jsonl"))} for split in ("train", "test"))
    found = loaded(tmp_path, f"task.data_dir={REAL_DATA}", *overrides)
    assert found.overlaps["test"].exact == len(train & test) == 2
    assert found.overlaps["test"].normalised == 2


def test_a_test_review_whose_copy_is_held_out_was_not_trained_on(real_task: LoadedTask) -> None:
    texts = {split: {row["text"] for row in rows} for split, rows in real_task.data.splits.items()}
    assert len(texts["test"] & texts["validation"]) == 2
    assert real_task.overlaps["test"].exact == len(texts["test"] & texts["train"]) == 0


def test_an_unlabeled_review_is_refused(root: Path, tmp_path: Path) -> None:
    with (root / "imdb/train.jsonl").open("a") as file:
        file.write('{"id": "train/unsup/0_0", "text": "unrated", "label": -1}\n')
    with pytest.raises(UserError, match=r"train\.jsonl:41 has the label '-1'.*\nAllowed: neg \(0\), pos \(1\)"):
        loaded(tmp_path, f"task.data_dir={root}")


def test_a_file_that_is_cut_off_is_refused_with_its_line(root: Path, tmp_path: Path) -> None:
    path = root / "imdb/test.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match=r"test\.jsonl:30 is not complete JSON.*\nIs the file cut off\?"):
        loaded(tmp_path, f"task.data_dir={root}")


@pytest.mark.parametrize("missing", ["text", "label"])
def test_a_file_without_a_column_is_refused(missing: str, root: Path, tmp_path: Path) -> None:
    path = root / "imdb/train.jsonl"
    path.write_text(path.read_text().replace(f'"{missing}":', '"other":'))
    with pytest.raises(UserError, match=rf"train\.jsonl:1 has no column '{missing}'"):
        loaded(tmp_path, f"task.data_dir={root}")


def test_an_empty_file_and_a_wrong_folder_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "imdb/train.jsonl").write_text("")
    with pytest.raises(UserError, match=r"train\.jsonl has no rows"):
        loaded(tmp_path, f"task.data_dir={root}")
    with pytest.raises(UserError, match=r"imdb/train\.jsonl doesn't exist"):
        loaded(tmp_path, f"task.data_dir={root / 'imdb'}")
