"""WikiSQL: indices become SQL by the official lists of operators, with or without the tables' column names."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from src.errors import UserError
from src.metrics.logical_form.logical_form import parsed
from src.tasks.base import TaskData, load_task
from tests.conftest import as_on_the_hub, composed, real_data

SPLITS = {"train": "train", "validation": "dev", "test": "test"}  # and their files
HEADER = ["Player", "No.", "Nationality", "Position", "Years in\nToronto", "", "Points > 5", "Co, and", "i", "j", "k"]
# A record in the file's form, built by hand: `sql` is [aggregation, selected column, conditions].
TABLE = "1-1"


def record(aggregation: int, selected: int, *conditions: list[Any], table: str = TABLE) -> dict[str, Any]:
    sql = {"sel": selected, "conds": list(conditions), "agg": aggregation}
    return {"phase": 1, "table_id": table, "question": "Who\xa0is it? ", "sql": sql}


def loaded(root: Path | None, *overrides: str) -> TaskData:
    folder = [f"task.data_dir={root}"] if root else []
    return load_task(composed("task=wikisql", "model=llama2_7b", *folder, *overrides)).data


def write(folder: Path, rows: list[dict[str, Any]], tables: list[dict[str, Any]]) -> Path:
    (folder / "wikisql").mkdir(exist_ok=True)
    for file in SPLITS.values():
        (folder / f"wikisql/{file}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
        (folder / f"wikisql/{file}.tables.jsonl").write_text("\n".join(map(json.dumps, tables)) + "\n")
    return folder


def answers(folder: Path, *rows: dict[str, Any]) -> list[str]:
    data = loaded(write(folder, list(rows), [{"id": TABLE, "header": HEADER}]))
    return [row["answer"] for row in data.splits["test"]]


def real_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in real_data("wikisql/dev.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def real() -> list[dict[str, Any]]:
    root = real_data("wikisql/dev.jsonl").parents[1]
    dev = [f"task.sources.{split}.file=wikisql/dev.jsonl" for split in SPLITS]
    return loaded(root, *dev, "task.options.headers=false").splits["test"]


def test_real_queries_have_the_files_counts(real: list[dict[str, Any]]) -> None:
    assert len(real) == 8421
    firsts = Counter(row["answer"].split()[1] for row in real)
    counts = {name: firsts[name] for name in ("MAX", "MIN", "COUNT", "SUM", "AVG")}
    assert counts == {"MAX": 507, "MIN": 468, "COUNT": 779, "SUM": 321, "AVG": 329}
    assert sum(" WHERE " not in row["answer"] for row in real) == 64


def test_real_queries_read_as_the_papers_own_repr(real: list[dict[str, Any]]) -> None:
    """Against `Query.__repr__` of salesforce/WikiSQL's lib/query.py, which doesn't quote values."""
    for row, raw in zip(real, real_rows(), strict=True):
        sql = raw["sql"]
        aggregation = ["", "MAX", "MIN", "COUNT", "SUM", "AVG"][sql["agg"]]
        text = f"SELECT {aggregation} col{sql['sel']} FROM table"
        if sql["conds"]:
            text += " WHERE " + " AND ".join(f"col{c} {['=', '>', '<'][o]} {v}" for c, o, v in sql["conds"])
        values = [str(value) for _, _, value in sql["conds"]]
        unquoted = row["answer"]
        for value in values:
            unquoted = unquoted.replace(f"'{value}'", value)
        assert unquoted.split() == text.split()


def test_a_real_row_has_the_columns_that_are_known_without_its_table(real: list[dict[str, Any]]) -> None:
    assert real[0] == {
        "prompt": "Columns: col0 | col1 | col2 | col3 | col4 | col5\n"
        "Question: What position does the player who played for butler cc (ks) play?\nSQL:",
        "answer": " SELECT col3 FROM table WHERE col5 = 'Butler CC (KS)'",
    }
    assert real[1]["answer"] == " SELECT COUNT col5 FROM table WHERE col1 = 3"


def official(raw: dict[str, Any]) -> tuple[int, int, frozenset[tuple[int, int, str]]]:
    """What `Query.__eq__` of salesforce/WikiSQL compares."""
    conditions = frozenset((column, operator, str(value).lower()) for column, operator, value in raw["sql"]["conds"])
    return raw["sql"]["agg"], raw["sql"]["sel"], conditions


def test_the_metric_finds_two_real_queries_equal_where_the_official_evaluator_does(real: list[dict[str, Any]]) -> None:
    queries = [parsed(row["answer"]) for row in real]
    assert None not in queries
    raws = map(official, real_rows())
    pairs = set(zip(queries, raws, strict=True))
    assert 7000 < len(pairs) < 8421
    assert len(pairs) == len({query for query, _ in pairs}) == len({raw for _, raw in pairs})


def test_queries_are_written_with_the_tables_names(tmp_path: Path) -> None:
    rows = [
        record(0, 3),
        record(3, 1, [5, 1, 1939.0], [6, 2, "-4.50"]),
        record(5, 7, [4, 0, "St. John's"], [0, 0, "1,000"], [8, 0, 7]),
    ]
    assert answers(tmp_path, *rows) == [
        " SELECT Position FROM table",
        " SELECT COUNT No. FROM table WHERE col5 > 1939.0 AND Points > 5 < -4.50",
        " SELECT AVG Co, and FROM table WHERE Years in Toronto = 'St. John's' AND Player = '1,000' AND i = 7",
    ]
    prompt = load_task(composed("task=wikisql", "model=llama2_7b", f"task.data_dir={tmp_path}")).data.splits["test"][0]
    assert prompt["prompt"] == (
        "Columns: Player | No. | Nationality | Position | Years in Toronto | col5 | Points > 5 | Co, and | i | j | k\n"
        "Question: Who\xa0is it?\nSQL:"
    )


def test_without_tables_their_files_are_not_read(tmp_path: Path) -> None:
    rows = [record(0, 1, [3, 0, "a"]), record(0, 0, table="1-2"), record(0, 4)]
    write(tmp_path, rows, []).joinpath("wikisql/dev.tables.jsonl").unlink()
    data = loaded(tmp_path, "task.options.headers=false")
    columns = [row["prompt"].splitlines()[0] for row in data.splits["validation"]]
    assert columns == [
        "Columns: col0 | col1 | col2 | col3 | col4",
        "Columns: col0",
        "Columns: col0 | col1 | col2 | col3 | col4",
    ]


@pytest.mark.parametrize("option", ["task.options.headers=true", "task.options.headers=false"])
def test_the_hub_gives_the_rows_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    rows = [*real_rows()[:40], record(0, 1, [3, 0, 1939.0], [2, 1, 4]), record(0, 2)]
    tables = [{"id": name, "header": HEADER} for name in sorted({row["table_id"] for row in rows})]
    first = loaded(write(tmp_path, rows, tables), option).fingerprint
    hub = [
        {
            "phase": row["phase"],
            "question": row["question"],
            "table": {"id": row["table_id"], "header": HEADER, "rows": [["x"]]},
            "sql": {
                "human_readable": "",
                "sel": row["sql"]["sel"],
                "agg": row["sql"]["agg"],
                "conds": {
                    "column_index": [column for column, _, _ in row["sql"]["conds"]],
                    "operator_index": [operator for _, operator, _ in row["sql"]["conds"]],
                    "condition": [str(value) for _, _, value in row["sql"]["conds"]],
                },
            },
        }
        for row in rows
    ]
    as_on_the_hub(tmp_path / "wikisql_on_hub", monkeypatch, {split: hub for split in SPLITS})
    assert loaded(None, option).fingerprint == first


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (record(0, 11), r"train\.jsonl:2 asks for column 11, but there are only 11: Player, No\."),
        (record(0, 0, [-1, 0, "a"]), r"train\.jsonl:2 asks for column -1"),
        (record(0, 0, [1, 3, "a"]), r"train\.jsonl:2 asks for operator 3, but there are only 3: =, >, <"),
        (record(6, 0), r"train\.jsonl:2 asks for aggregation 6"),
        (record(0, 0, table="9-9"), r"train\.jsonl:2 is about the table '9-9', which isn't among"),
        ({"table_id": TABLE, "question": "Who?"}, r"train\.jsonl:2 has no column 'sql'"),
        ({**record(0, 0), "sql": {"sel": 1, "agg": 0}}, r"train\.jsonl:2, sql has no column 'conds'"),
    ],
)
def test_bad_queries_are_named_with_their_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        answers(tmp_path, record(0, 0), row)


def test_a_missing_file_of_tables_is_refused_with_both_remedies(tmp_path: Path) -> None:
    write(tmp_path, [record(0, 0)], []).joinpath("wikisql/train.tables.jsonl").unlink()
    with pytest.raises(UserError, match=r"train\.tables\.jsonl doesn't exist[\s\S]*Or set task.options.headers=false"):
        loaded(tmp_path)


def test_a_file_that_is_cut_off_or_missing_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.jsonl doesn't exist"):
        loaded(tmp_path)
    train = write(tmp_path, [record(0, 0)], [{"id": TABLE, "header": HEADER}]) / "wikisql/train.jsonl"
    train.write_text(json.dumps(record(0, 0))[:-3])
    with pytest.raises(UserError, match=r"train\.jsonl:1 is not complete JSON"):
        loaded(tmp_path)
    train.write_text("\n")
    with pytest.raises(UserError, match=r"train\.jsonl has no rows"):
        loaded(tmp_path)
