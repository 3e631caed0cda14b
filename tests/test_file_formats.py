"""Whatever a file's reader would drop, merge or guess at is refused with file, line and what to do."""

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from src.errors import UserError
from src.tasks.source import DataRecord, read


def refusal(folder: Path, name: str, content: str | bytes) -> str:
    """What is said of a file; its path is left out."""
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    with pytest.raises(UserError) as refused:
        list(read(path))
    said = str(refused.value)
    assert said.startswith(str(path))
    assert len(said.splitlines()) == 2
    return said.removeprefix(str(path))


def rows_of(folder: Path, name: str, content: str | bytes) -> list[dict[str, Any]]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return [dict(record) for record in read(folder / name)]


GOOD = "label,text\npos,fine\nneg,bad\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        # a comma or a tab too many
        ("a.csv", f"{GOOD}pos,Item 1 arrived, but I find it great\n",
         ":4 has 3 fields for 2 columns (label, text); too many: ' but I find it great'.\nA text with a comma must"),
        ("b.csv.gz", f"{GOOD}pos,\"quoted, well\"\nneg,not, quoted, at all\n", ":5 has 4 fields for 2 columns"),
        ("c.csv", f"{GOOD}pos,fine,\n", ":4 has 3 fields for 2 columns (label, text); too many: ''."),
        ("d.csv", f"{GOOD}\n\r\npos,a,b\n", ":6 has 3 fields"),
        ("e.csv", 'label,text\npos,"two\nlines"\npos,a,b\n', ":4 has 3 fields"),
        ("f.tsv", "label\ttext\npos\tone\ttwo\n", ":2 has 3 fields for 2 columns (label, text); too many: 'two'."),
        # another separator
        ("g.csv", "label;text\npos;fine\n", ":1 separates its columns by ';': 'label;text'.\nSave it with commas"),
        ("h.csv", "label\ttext\npos\tfine\n", ":1 separates its columns by tabs: 'label\\ttext'.\nSave it with commas"),
        ("i.csv", "label|text\npos|fine\n", ":1 separates its columns by '|'"),
        ("j.tsv", "label,text\npos,fine\n", ":1 separates its columns by ',': 'label,text'.\nSave it with tabs"),
        # other encodings
        ("k.csv", GOOD.encode("utf-16"), ":1 is UTF-16 or UTF-32.\nSave it as UTF-8"),
        ("l.jsonl", '{"text": "a"}\n'.encode("utf-16-be"), ":1 holds a NUL character.\nIs it UTF-16? Save it as UTF-8"),
        ("m.csv", f"{GOOD}pos,très bien\n".encode("latin-1"), ":4 isn't UTF-8: byte 0xe8 behind 'pos,tr'.\nSave it as"),
        ("n.tsv", "label\ttext\npos\t“fine”\n".encode("cp1252"), ":2 isn't UTF-8: byte 0x93 behind 'pos\t'"),
        ("o.txt", "one\ntwo\xe9".encode("latin-1"), ":2 isn't UTF-8: byte 0xe9 behind 'two'"),
        ("p.csv", GOOD.replace("bad", "b\0d"), ":3 holds a NUL character"),
        ("q.txt", "one\nt\0wo\n", ":2 holds a NUL character"),
        # quotes left open
        ("r.csv", f'{GOOD}pos,"never closed\nneg,bad\n', ":4 can't be read: unexpected end of data.\nIs a quote left"),
        ("s.csv", f'{GOOD}neg,poor\npos,"never closed\nneg,bad\npos,well" said\n', ":5 can't be read: "),
        ("t.csv", f'{GOOD}neg,no\npos,"left open\nneg,bad\npos,closed"\nneg,x\n',
         ":5 has a field with line ends in it, and the row 'neg,bad' among its lines.\nIs a quote left open?"),
        ("u.csv", 'text,label\na,1\nb,0\nc,1\n"open,1\nnot,0\nclosed",1\n', ":5 has a field with line ends in it"),
        # headers
        ("v.csv", f"{GOOD}label,text\npos,again\n", ":4 repeats the header.\nAre two files joined?"),
        ("w.csv", "text,label,text\na,b,c\n", ":1 names two columns 'text'.\nGive each its own name."),
        ("y.csv", ",,text\n0,1,a\n", ":1 names two columns ''."),
        ("z.csv", 'text,label\n"say \\"hi\\" now",x\n',
         ":2 can't be read: ',' expected after '\"'.\nA quote inside quotes"),
        ("zz.csv", GOOD.encode("utf-32"), ":1 is UTF-16 or UTF-32."),
        ("x.tsv", "a\tb\ta\n1\t2\t3\n", ":1 names two columns 'a'"),
    ],
)  # fmt: skip
def test_a_table_of_which_something_would_be_lost_is_refused(
    tmp_path: Path, name: str, content: str | bytes, said: str
) -> None:
    assert said in refusal(tmp_path, name, content)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": "x\\ud83d"}\n', ":2 has half of a character, \\ud83d."),
        ("b.jsonl", '{"text": ["a", {"b": "\\uDE00"}]}\n', ":1 has half of a character, \\ude00."),
        ("c.json", '[{"text": "a"}, {"\\udfff": "a"}]', ", item 1 has half of a character, \\udfff."),
        ("d.jsonl", '{"text": "a", "label": 1, "text": "b"}\n', ":1 has the key 'text' twice.\n"),
        ("e.json", '[{"a": {"b": 1, "b": 1}}]', " has the key 'b' twice.\n"),
        ("f.jsonl", '{"text": "a"}\n{"text": "b", "lab', ":2 is not complete JSON: Unterminated string starting at"),
        ("g.jsonl", '{"text": "a"}\n{"text": \'b\'}\n{"text": "c"}\n', ":2 is not complete JSON: Expecting value at"),
        ("h.jsonl", '[\n{"text": "a"}\n]\n', "a list of objects belongs into a file that ends in .json."),
        ("i.json", '{"text": "a"}\n{"text": "b"}\n', "an object a line belongs into a file that ends in .jsonl."),
        ("j.jsonl", '{"text": "a"}\n' + "[" * 100_000, ":2 is nested too deeply.\n"),
        ("l.jsonl", '{"text": "a", "text": "b"}', "twice.\nAllowed: an object a line, with each name once."),
        ("m.jsonl", '{"text": ' + "9" * 5000 + "}", ":1 Exceeds the limit (4300 digits)"),
        ("k.jsonl", '{"text": "a"} {"text": "b"}\n', ":1 is not complete JSON: Extra data at character 15.\n"),
    ],
)  # fmt: skip
def test_json_of_which_something_would_be_lost_is_refused(tmp_path: Path, name: str, content: str, said: str) -> None:
    assert said in refusal(tmp_path, name, content)


def test_only_the_last_line_of_a_jsonl_file_can_be_cut_off(tmp_path: Path) -> None:
    assert refusal(tmp_path, "a.jsonl", '{"a": 1}\n{"a": \n\n').endswith("Is the file cut off?")
    assert refusal(tmp_path, "b.jsonl", '{"a": 1}\n{"a": \n{"a": 3}\n').endswith(
        "Allowed: an object a line, with each name once."
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b"\xef\xbb\xbflabel,text\r\npos,fine\r\n\r\nneg,bad\r\n"),
        ("b.csv", "\n\nlabel,text\npos,fine\nneg,bad"),
        ("c.tsv", "label\ttext\npos\tfine\t\nneg\tbad\n"),
        ("d.jsonl", '\ufeff{"label": "pos", "text": "fine"}\n\n{"label": "neg", "text": "bad"}'),
        ("e.json", '[{"label": "pos", "text": "fine"},\r\n {"label": "neg", "text": "bad"}]'),
    ],
)
def test_byte_order_marks_blank_lines_and_line_ends_change_nothing(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    assert rows_of(tmp_path, name, content) == [{"label": "pos", "text": "fine"}, {"label": "neg", "text": "bad"}]


def test_a_whole_character_of_two_escapes_is_one(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00 \\\\ud83d"}') == [{"text": "\U0001f600 \\ud83d"}]


def test_paragraphs_in_quotes_are_one_text(tmp_path: Path) -> None:
    text = 'It was good, I think,\nand yes, she said "no", twice.\n\nyes, well'
    table = pd.DataFrame({"answer": ["yes", "no", "yes", "no"], "text": [text, "b", "c", text + "!"]})
    table.to_csv(tmp_path / "a.csv", index=False)
    assert [record["text"] for record in read(tmp_path / "a.csv")] == table["text"].tolist()


def test_a_text_may_be_longer_than_the_csv_module_expects(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a.csv", f"text,label\n{'x ' * 100_000},1\n")[0]["label"] == "1"


def test_a_parquet_file_gives_its_rows_with_their_numbers(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1, "list": ["x", "y"]}, {"text": None, "label": 0, "list": []}]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    records = list(read(tmp_path / "a.parquet"))
    assert [dict(record) for record in records] == rows
    assert [record.location for record in records] == [f"{tmp_path}/a.parquet, row {number}" for number in range(2)]


def test_a_parquet_file_that_is_cut_off_or_none_at_all_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["a"]}).to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for content in (whole[:-10], b"", b"text,label\n"):
        assert " can't be read as parquet: " in refusal(tmp_path, "a.parquet", content)


# ---- values


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7, "p:3 has 7 in column 'output', where a text must be.\nAllowed: a text, as in \"7\"."),
        (None, "p:3 has null in column 'output', where a text must be.\nGive the row a text, or leave it out."),
        (True, "p:3 has True in column 'output'"),
        (float("nan"), "p:3 has nan in column 'output'"),
        (["a"], "p:3 has '['a']' in column 'output', where a text must be.\nAllowed: a text."),
        ({"a": 1}, "p:3 has '{'a': 1}' in column 'output'"),
    ],
)
def test_what_is_no_text_is_refused_where_a_text_must_be(value: Any, said: str) -> None:
    with pytest.raises(UserError) as refused:
        DataRecord({"output": value}, "p:3").text("solution | output")
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(("value", "number"), [("3.5", 3.5), (" -2 ", -2.0), (4, 4.0), ("1e-3", 0.001), (".5", 0.5)])
def test_a_number_may_be_written_as_text(value: Any, number: float) -> None:
    assert DataRecord({"n": value}, "p").number("n") == number


@pytest.mark.parametrize(
    "value", ["", "3,5", "nan", "inf", "1_000", "٣", "1e999", "four", None, True, float("inf"), float("nan"), [1]]
)
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(UserError, match=r"p has .* in column 'n', where a number must be.\nAllowed: a finite number"):
        DataRecord({"n": value}, "p").number("n")


STARS = ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(("value", "index"), [("1", 0), (1, 0), ("5", 4), (3, 2)])
def test_classes_named_by_numbers_are_known_by_name_alone(value: Any, index: int) -> None:
    assert DataRecord({"stars": value}, "p").label("stars", STARS) == index


@pytest.mark.parametrize("value", ["0", 0, "01", " 1", "1 ", "1.0", 1.0, True, "True", "\uff16", "+1", None])
def test_a_label_that_may_mean_another_class_is_refused(value: Any) -> None:
    with pytest.raises(UserError) as refused:
        DataRecord({"stars": value}, "p:2").label("stars", STARS)
    assert str(refused.value) == f"p:2 has the label '{value}' in column 'stars'.\nAllowed: 1, 2, 3, 4, 5."


@pytest.mark.parametrize("value", ["01", " 1", "1 ", 1.0, "1.0", True, "\u0660", "-0", "no ", "No"])
def test_an_index_counts_where_it_is_written_as_one(value: Any) -> None:
    with pytest.raises(UserError, match=r"Allowed: no \(0\), yes \(1\)"):
        DataRecord({"label": value}, "p").label("label", ["no", "yes"])


def test_one_class_named_by_a_number_leaves_no_index() -> None:
    assert DataRecord({"label": "10"}, "p").label("label", ["under 10", "10"]) == 1
    with pytest.raises(UserError, match=r"Allowed: under 10, 10\."):
        DataRecord({"label": "0"}, "p").label("label", ["under 10", "10"])


# ---- templates


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{a}: {b c}", "one: two"),
        ("{{{a}}}", "{one}"),
        ('{{"key": "{a}"}} {n}', '{"key": "one"} 3'),
        ("nothing", "nothing"),
        ("{x.y}{x[0]}", "dotindex"),
    ],
)
def test_a_template_is_filled_with_the_columns_that_it_names(template: str, text: str) -> None:
    record = DataRecord({"a": "one", "b c": "two", "n": 3, "x.y": "dot", "x[0]": "index"}, "p")
    assert record.filled(template) == text


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{a", "task.prompt has an open brace"),
        ("a}", "task.prompt has an open brace"),
        ("{}", "task.prompt has braces without a column's name: {}."),
        ('{"a": 1}', 'task.prompt has braces without a column\'s name: {"a": 1}.'),
        ("{a!r}", "task.prompt has braces without a column's name: {a!r}."),
        ("{a:>9}", "task.prompt has braces without a column's name: {a:>9}."),
        ("f(x) {return x}", "task.prompt asks for {return x}; p:9 has no column 'return x'.\nIt has: a, list, none."),
        ("{a.real}", "task.prompt asks for {a.real}; p:9 has no column 'a.real'"),
        ("{none}", "task.prompt asks for {none}; p:9 has null there."),
        ("{list}", "task.prompt asks for {list}; p:9 has '[1]' there."),
    ],
)
def test_a_brace_that_names_no_column_is_refused_with_the_remedy(template: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        DataRecord({"a": "one", "none": None, "list": [1]}, "p:9").filled(template)
    assert str(refused.value).startswith(said)
    remedy = "Allowed: a text or a number" if template in ("{none}", "{list}") else "twice: {{ or }}"
    assert remedy in str(refused.value)


def test_equal_files_of_every_format_give_equal_rows(tmp_path: Path) -> None:
    rows = [{"text": 'a "b", c', "label": "x"}, {"text": "d", "label": "y"}]
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.tsv").write_text("text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows))
    for path in tmp_path.iterdir():
        assert [dict(record) for record in read(path)] == rows
