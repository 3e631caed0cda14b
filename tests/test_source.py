"""Records come from files and from the hub as they are, and whatever is wrong with one is said with its place."""

import csv
import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from src.config.schema import SourceConfig, TaskConfig
from src.errors import UserError
from src.tasks.file_formats import READERS
from src.tasks.source import DataRecord, Source, read
from tests.conftest import as_on_the_hub, run_program

RECORDS = [{"text": "one", "label": "0"}, {"text": 'two "2", a\ttab', "label": "1"}, {"text": "Café ☕", "label": "0"}]
# Everything that str.splitlines splits at and a file's lines don't end with.
UNUSUAL = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"


def write(path: Path, content: str | bytes) -> Path:
    """Write bytes, or text in UTF-8 without a change of its line ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def jsonl(rows: list[dict[str, Any]], **options: Any) -> str:
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


def plain(records: Any) -> list[dict[str, Any]]:
    return [dict(record) for record in records]


def places(records: Any) -> list[str]:
    return [record.location.rpartition("/")[2] for record in records]


def source(data_dir: Path | None, **parts: SourceConfig) -> Source:
    """A task `t` with these parts; "train" is the file train.jsonl where none are given."""
    sources = parts or {"train": SourceConfig(file="train.jsonl")}
    return Source(TaskConfig(name="t", data_dir=None if data_dir is None else str(data_dir), sources=sources), Path())


def refusal(data_dir: Path | None, part: str = "train", **parts: SourceConfig) -> str:
    """What a user is told who asks for a part."""
    with pytest.raises(UserError) as refused:
        source(data_dir, **parts).records(part)
    return str(refused.value)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_jsonl_file_gives_an_object_a_line_and_skips_empty_lines(tmp_path: Path, name: str, ascii_only: bool) -> None:
    content = jsonl(RECORDS[:2], ensure_ascii=ascii_only) + "\n  \n" + jsonl(RECORDS[2:], ensure_ascii=ascii_only)
    records = list(read(write(tmp_path / name, content)))
    assert plain(records) == RECORDS
    assert places(records) == [f"{name}:1", f"{name}:2", f"{name}:5"]


def test_a_json_file_gives_its_items_or_its_one_object(tmp_path: Path) -> None:
    records = list(read(write(tmp_path / "rows.json", json.dumps(RECORDS, indent=1))))
    assert plain(records) == RECORDS
    assert places(records) == ["rows.json, item 0", "rows.json, item 1", "rows.json, item 2"]
    assert plain(read(write(tmp_path / "row.json", json.dumps(RECORDS[1])))) == RECORDS[1:2]


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_csv_file_keeps_quotes_commas_and_line_ends_inside_its_fields(tmp_path: Path, line_end: str) -> None:
    rows = [("text", "label"), ('He said "no", twice', "0"), (f"two{line_end}lines", "1"), ("last", "0")]
    path = tmp_path / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=line_end).writerows(rows)
    assert plain(read(path)) == [{"text": text, "label": label} for text, label in rows[1:]]


def test_the_place_in_a_csv_file_counts_the_lines_inside_fields(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'text,label\n"one\ntwo\nthree",0\nfour,1\n')
    spread, after = read(path)
    assert spread.location in [f"{path}:{line}" for line in (2, 3, 4)]
    assert after.location == f"{path}:5"


def test_a_csv_row_with_too_few_fields_lacks_the_last_columns(tmp_path: Path) -> None:
    (record,) = read(write(tmp_path / "rows.csv", "text,label\nonly\n"))
    with pytest.raises(UserError, match=r"rows.csv:2 has no column 'label'"):
        record["label"]


def test_a_tsv_file_takes_quotes_for_characters_and_knows_its_columns_behind_a_byte_order_mark(tmp_path: Path) -> None:
    content = '\ufeffQuality\t#1 String\t#2 String\r\n1\t"open\tnot closed\r\n\r\n0\t""both""\t a, b \r\n'
    records = list(read(write(tmp_path / "rows.tsv", content)))
    assert plain(records) == [
        {"Quality": "1", "#1 String": '"open', "#2 String": "not closed"},
        {"Quality": "0", "#1 String": '""both""', "#2 String": " a, b "},
    ]
    assert places(records) == ["rows.tsv:2", "rows.tsv:4"]


def test_a_tsv_file_without_a_header_is_read_from_its_first_line_with_the_names_given(tmp_path: Path) -> None:
    rows = list(read(write(tmp_path / "rows.tsv", "gj04\t1\t\tA sentence.\nbc01\t0\t*"), header=["id", "y", "m", "s"]))
    assert plain(rows) == [{"id": "gj04", "y": "1", "m": "", "s": "A sentence."}, {"id": "bc01", "y": "0", "m": "*"}]
    assert places(rows) == ["rows.tsv:1", "rows.tsv:2"]


def test_a_txt_file_gives_its_lines_with_the_spaces_that_they_have(tmp_path: Path) -> None:
    records = list(read(write(tmp_path / "rows.txt", "one \r\n\n\ttwo\nlast")))
    assert plain(records) == [{"line": "one "}, {"line": ""}, {"line": "\ttwo"}, {"line": "last"}]
    assert places(records) == ["rows.txt:1", "rows.txt:2", "rows.txt:3", "rows.txt:4"]


@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("rows.jsonl", jsonl([{"text": UNUSUAL}, {"text": "b"}], ensure_ascii=False), "text"),
        ("rows.json", json.dumps([{"text": UNUSUAL}, {"text": "b"}], ensure_ascii=False), "text"),
        ("rows.csv", f"text,label\n{UNUSUAL},0\nb,1\n", "text"),
        ("rows.tsv", f"text\tlabel\n{UNUSUAL}\t0\nb\t1\n", "text"),
        ("rows.txt", f"{UNUSUAL}\nb\n", "line"),
    ],
)
def test_unusual_separators_end_no_line_and_stay_in_the_text(
    tmp_path: Path, name: str, content: str, column: str
) -> None:
    assert [record[column] for record in read(write(tmp_path / name, content))] == [UNUSUAL, "b"]


@pytest.mark.parametrize("kind", sorted(READERS))
def test_every_kind_is_read_from_gz_as_from_plain(tmp_path: Path, kind: str) -> None:
    content = {"jsonl": jsonl(RECORDS), "json": json.dumps(RECORDS), "csv": "a,b\n1,2\n", "tsv": "a\tb\n1\t2\n"}
    files = [write(tmp_path / f"rows.{kind}{end}", content.get(kind, "a line\n")) for end in ("", ".gz")]
    unpacked, packed = (plain(read(file)) for file in files)
    assert unpacked == packed != []


def test_a_jsonl_file_that_ends_in_the_middle_of_a_line_is_named_with_that_line(tmp_path: Path) -> None:
    content = jsonl(RECORDS)
    path = write(tmp_path / "train.jsonl", content[:-20])
    column = len(content[:-20].splitlines()[2])
    message = refusal(tmp_path)
    assert re.match(
        rf"{re.escape(str(path))}:3 is not complete JSON: .* at character \d+\.\nIs the file cut off\?", message
    )
    assert int(re.findall(r"character (\d+)", message)[0]) <= column + 1


def test_a_json_list_that_is_cut_off_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", json.dumps(RECORDS, indent=1)[:-30])
    lines = path.read_text(encoding="utf-8").count("\n") + 1
    with pytest.raises(UserError, match=rf"rows.json:{lines} is not complete JSON(.|\n)*Is the file cut off"):
        list(read(path))


def test_a_csv_file_that_ends_inside_a_quoted_field_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", 'text,label\none,0\n"two, and it goes o')
    with pytest.raises(UserError, match=r"rows.csv:3 can't be read: unexpected end of data.\nIs a quote left open"):
        list(read(path))


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "txt"])
def test_a_gz_file_that_is_cut_off_is_refused(tmp_path: Path, kind: str) -> None:
    whole = gzip.compress((("a\tb\n" if kind == "tsv" else "") + jsonl(RECORDS * 100)).encode())
    path = tmp_path / f"rows.{kind}.gz"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=rf"rows.{kind}.gz.*(\n.*)*Is the file cut off"):
        list(read(path))


def test_a_gz_file_that_is_damaged_or_not_packed_at_all_is_refused(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(jsonl([{"text": f"{i * i}"} for i in range(3000)]).encode()))
    whole[100:130] = bytes(30)
    (tmp_path / "damaged.jsonl.gz").write_bytes(whole)
    (tmp_path / "unpacked.jsonl.gz").write_text(jsonl(RECORDS))
    for name in ("damaged", "unpacked"):
        with pytest.raises(UserError, match=rf"{name}.jsonl.gz.*(\n.*)*Is the file cut off"):
            list(read(tmp_path / f"{name}.jsonl.gz"))


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_bytes_that_are_no_utf_8_are_refused_with_their_line(tmp_path: Path, ending: str) -> None:
    good = jsonl([{"text": "x" * 100}] * 300)
    path = write(tmp_path / f"rows.{ending}", good.encode() + '{"text": "Café"}\n'.encode("latin-1"))
    with pytest.raises(UserError) as refused:
        list(read(path))
    assert str(refused.value) == (
        f"{path}:301 isn't UTF-8: byte 0xe9 behind '{{\"text\": \"Caf'.\n"
        "Save it as UTF-8; it may be Latin-1 or Windows-1252."
    )


@pytest.mark.parametrize(("line", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("null", "NoneType"), ("7", "int")])
def test_a_line_that_is_no_object_is_refused_with_its_kind(tmp_path: Path, line: str, kind: str) -> None:
    write(tmp_path / "train.jsonl", f'{{"text": "a"}}\n{line}\n')
    assert refusal(tmp_path) == f"{tmp_path}/train.jsonl:2 is a {kind}, not an object with columns."


def test_an_ending_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path / "train.xlsx", b"PK")
    message = refusal(tmp_path, train=SourceConfig(file="train.xlsx"))
    assert message == (
        f"{tmp_path}/train.xlsx: files ending in .xlsx can't be read.\nAllowed: csv, json, jsonl, parquet, tsv, txt."
    )


def test_a_folder_that_does_not_exist_is_refused_with_the_file_it_should_hold(tmp_path: Path) -> None:
    message = refusal(tmp_path / "no")
    assert message == f"task.data_dir={tmp_path}/no is not a folder.\nGive the one that holds train.jsonl."
    file = write(tmp_path / "train.jsonl", jsonl(RECORDS))
    assert f"task.data_dir={file} is not a folder" in refusal(file)


def test_a_missing_file_is_named_with_what_is_there_the_likeliest_first(tmp_path: Path) -> None:
    for name in ("LICENSE", "SST2/dev.tsv", "SST2/train.tsv", "other/readme.md"):
        write(tmp_path / name, "x")
    message = refusal(tmp_path, train=SourceConfig(file="SST-2/train.tsv"))
    first, second, third = message.splitlines()
    assert first == f"{tmp_path}/SST-2/train.tsv doesn't exist."
    assert second.startswith(f"task.data_dir={tmp_path} has: SST2/train.tsv, ")
    assert "SST2/dev.tsv" in second
    assert third == "Give the folder that holds SST-2/train.tsv, or set task.sources.train.file=..."


def test_an_empty_folder_is_said_to_have_nothing(tmp_path: Path) -> None:
    assert f"task.data_dir={tmp_path} has: nothing." in refusal(tmp_path)


def test_a_folder_in_the_place_of_a_file_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    assert refusal(tmp_path).startswith(f"{tmp_path}/train.jsonl is a folder, not a file.\n")


@pytest.mark.parametrize(
    ("name", "content"),
    [("jsonl", ""), ("jsonl.gz", "\n\n"), ("json", "[]"), ("csv", "a,b\n"), ("tsv", "a\tb\n"), ("txt", "")],
)  # fmt: skip
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str, content: str) -> None:
    path = write(tmp_path / f"train.{name}", content)
    message = refusal(tmp_path, train=SourceConfig(file=f"train.{name}"))
    assert message == f"task=t: {path} has no rows, but 'train' is made of them."


def test_an_absolute_path_needs_no_place_under_the_data_folder(tmp_path: Path) -> None:
    path = write(tmp_path / "elsewhere/rows.jsonl", jsonl(RECORDS))
    (tmp_path / "data").mkdir()
    assert plain(source(tmp_path / "data", train=SourceConfig(file=str(path))).records("train")) == RECORDS


def test_a_missing_column_is_refused_with_those_there_are_the_likeliest_first() -> None:
    record = DataRecord({"id": 1, "summary": "s", "dialog": "d"}, "train.jsonl:17")
    with pytest.raises(UserError) as refused:
        record["dialogue"]
    assert str(refused.value) == (
        "train.jsonl:17 has no column 'dialogue'.\nIt has: dialog, id, summary.\nIs it another set's file, or cut off?"
    )


def test_the_first_column_that_a_record_has_is_taken_even_where_it_is_empty() -> None:
    assert DataRecord({"b": "2", "c": "3"}, "p").first("a | b | c") == "2"
    assert DataRecord({"a": "", "b": "2"}, "p").first("a | b") == ""


def test_of_several_columns_that_are_missing_the_first_is_named() -> None:
    with pytest.raises(UserError, match=r"p has no column 'a'.\nIt has: c\."):
        DataRecord({"c": "3"}, "p").first("a | b")


@pytest.mark.parametrize(("value", "index"), [("no", 0), ("yes", 1), ("0", 0), (1, 1)])
def test_a_label_is_known_by_name_and_by_index(value: Any, index: int) -> None:
    assert DataRecord({"label": value}, "p").label("label", ["no", "yes"]) == index


@pytest.mark.parametrize("value", ["2", -1, "-1", "", None, "Yes", 1.5, True, [0]])
def test_a_label_outside_the_set_is_refused_with_the_set(value: Any) -> None:
    with pytest.raises(UserError) as refused:
        DataRecord({"label": value}, "dev.tsv:3").label("label", ["no", "yes"])
    assert str(refused.value) == f"dev.tsv:3 has the label '{value}' in column 'label'.\nAllowed: no (0), yes (1)."


def test_a_part_without_a_file_comes_from_the_hub_while_the_others_come_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data/train.jsonl", jsonl([{"text": "of the file"}]))
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"test": [{"text": "of the hub"}, {"text": "again"}]})
    on_hub = SourceConfig(hub_id="someone/something", hub_config="default", split="test")
    mixed = source(tmp_path / "data", train=SourceConfig(file="train.jsonl"), test=on_hub)
    assert [mixed.has_file(part) for part in ("train", "test")] == [True, False]
    assert plain(mixed.records("train")) == [{"text": "of the file"}]
    records = mixed.records("test")
    assert plain(records) == [{"text": "of the hub"}, {"text": "again"}]
    assert records[1].location == "someone/something test, row 1"


def test_with_a_file_and_a_hub_id_the_folder_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "data/train.jsonl", jsonl([{"text": "of the file"}]))
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"train": [{"text": "of the hub"}]})
    both = {"train": SourceConfig(file="train.jsonl", hub_id="a/b", hub_config="default", split="train")}
    assert plain(source(tmp_path / "data", **both).records("train")) == [{"text": "of the file"}]
    assert plain(source(None, **both).records("train")) == [{"text": "of the hub"}]


def test_a_part_that_is_not_on_the_hub_says_which_file_it_needs() -> None:
    message = refusal(None)
    assert message.startswith("task=t isn't on the hub: 'train' must come from files.\nSet task.data_dir=<folder>")
    assert "train.jsonl" in message


def test_a_part_with_neither_a_file_nor_a_place_on_the_hub_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, train=SourceConfig()).startswith("task=t names no file for 'train'.\n")
    assert "\nSet task.sources.train.file=<file>, and task.data_dir=<folder>" in refusal(None, train=SourceConfig())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"hub_config": "other", "split": "train"}, "a/b can't be read as configuration other, split train: "),
        ({"hub_config": "default", "split": "dev"}, "a/b can't be read as configuration default, split dev: "),
        ({"hub_config": "default", "split": "train[:x]"}, "a/b can't be read as configuration default, split train"),
        ({"hub_config": "default", "split": None}, "task.sources.train.split is null: which split of a/b?"),
    ],
)  # fmt: skip
def test_a_configuration_or_a_split_that_the_hub_does_not_have_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any], message: str
) -> None:
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"train": [{"text": "a"}]})
    said = refusal(None, train=SourceConfig(file="train.jsonl", hub_id="a/b", **asked))
    assert message in said
    assert "Set task.data_dir=<folder> to one that holds train.jsonl" in said


def test_a_damaged_parquet_file_in_the_cache_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = as_on_the_hub(tmp_path / "hub", monkeypatch, {"train": [{"text": "a"}]})
    (parquet,) = folder.rglob("*.parquet")
    parquet.write_bytes(parquet.read_bytes()[:-10])
    said = refusal(None, train=SourceConfig(hub_id="a/b", hub_config="default", split="train"))
    assert said.startswith("task=t: a/b can't be read as configuration default, split train: ")


def test_a_slice_of_a_split_is_taken_from_the_hub_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_on_the_hub(tmp_path / "hub", monkeypatch, {"train": [{"text": str(i)} for i in range(9)]})
    first = source(None, train=SourceConfig(hub_id="a/b", hub_config="default", split="train[:4]"))
    assert [record["text"] for record in first.records("train")] == ["0", "1", "2", "3"]


def sst2(folder: Path, train: str) -> Path:
    write(folder / "glue/SST-2/train.tsv", f"sentence\tlabel\n{train}")
    write(folder / "glue/SST-2/dev.tsv", "sentence\tlabel\nfine \t1\n")
    return folder


def gsm8k(folder: Path, train: str) -> Path:
    write(folder / "gsm8k/train.jsonl", train)
    write(folder / "gsm8k/test.jsonl", jsonl([{"question": "1+1?", "answer": "#### 2"}]))
    return folder


QUESTIONS = jsonl([{"question": f"{i}+1?", "answer": f"#### {i + 1}"} for i in range(3)])


@pytest.mark.parametrize(
    ("task", "train", "said"),
    [
        ("sst2", None, "SST-2/train.tsv doesn't exist.\n"),
        ("sst2", "good \t1\nnot so goo", "SST-2/train.tsv:3 has no column 'label'.\nIt has: sentence.\n"),
        ("sst2", "good \t1\nbad \t-1\n", "train.tsv:3 has the label '-1' in column 'label'.\nAllowed: negative (0), "),
        ("sst2", "", "SST-2/train.tsv has no rows, but 'train' is made of them."),
        ("sst2", "good \t1\nbad \t0\n", "task.validation_size=1000 can't be held out of 2 training rows.\n"),
        ("gsm8k", QUESTIONS[:-9], "gsm8k/train.jsonl:3 is not complete JSON"),
        ("gsm8k", QUESTIONS.replace("question", "problem"), "gsm8k/train.jsonl:1 has no column 'question'.\nIt has: "),
        ("gsm8k", "[1]\n", "gsm8k/train.jsonl:1 is a list, not an object with columns."),
    ],
)  # fmt: skip
def test_a_bad_file_ends_the_program_with_status_2_its_message_and_nothing_written(
    tmp_path: Path, task: str, train: str | None, said: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    if train is not None:
        (sst2 if task == "sst2" else gsm8k)(folder, train)
    model = [f"model={'minilm' if task == 'sst2' else 'tiny_llama'}"]
    model += [] if task == "sst2" else ["model.config.max_position_embeddings=768"]
    overrides = [f"task={task}", f"task.data_dir={folder}", *model, "tracking=none"]
    before = sorted(tmp_path.rglob("*"))
    done = run_program("src.run", *overrides, f"results_dir={tmp_path}/results", f"cache_dir={tmp_path}/cache")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4
    assert sorted(tmp_path.rglob("*")) == before
