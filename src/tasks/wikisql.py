"""Turn a question about a table into SQL: WikiSQL 1.1 (Zhong et al. 2017, arXiv 1709.00103).

An example of the original files, whose table stands in another file, and what becomes of it:

    {"phase": 1, "table_id": "1-10015132-11", "question": "What position does the player who played for butler cc (ks)
     play?", "sql": {"sel": 3, "conds": [[5, 0, "Butler CC (KS)"]], "agg": 0}}
    {"id": "1-10015132-11", "header": ["Player", "No.", "Nationality", "Position", "Years in Toronto",
     "School/Club Team"], "types": [...], "rows": [...]}
    SELECT Position FROM table WHERE School/Club Team = 'Butler CC (KS)'

The model is shown the question and the columns, as in LoRA (arXiv 2106.09685, Appendix C: x = {table schema, query},
y = {SQL}; its exact text isn't published). The SQL is that of `Query.__repr__` (salesforce/WikiSQL, lib/query.py) with
names of columns in place of indices, as `sql.human_readable` on the hub, and texts in quotes. Quotes within a text are
left as they are, since `logical_form` finds a text's end without escapes.

Values keep their case and are written as `str` writes them (`4.0` is not `4`), bare where that is a number: the hub has
all of them as texts, so that the type of the original is not to be known there. A nameless column is `col<index>`;
two columns of one name are not told apart.
"""

import re
from collections.abc import Sequence
from typing import Any

from src.errors import UserError
from src.tasks.base import SPLITS, Row, TaskData
from src.tasks.source import DataRecord, Source

AGGREGATIONS = ["", "MAX", "MIN", "COUNT", "SUM", "AVG"]
OPERATORS = ["=", ">", "<"]
NUMBER = re.compile(r"-?\d+(\.\d+)?")
Condition = tuple[int, int, str]  # of a column, an operator and a value


def load(source: Source, *, headers: bool) -> TaskData:
    """Read the official splits; dev is the validation split.

    Args:
        headers: name columns as their tables do; else `col0`, `col1`, ... up to the last that a question about the
            table asks for, which needs no tables.

    Raises:
        UserError: a table is missing, or a query asks for what isn't there.
    """
    return TaskData({split: _rows(source, split, headers) for split in SPLITS}, label_names=[])


def _rows(source: Source, split: str, headers: bool) -> list[Row]:
    records = source.records(split)
    columns = _headers(source, split, records) if headers else _numbered(records)
    return [_row(record, columns, source.task.prompt) for record in records]


def _row(record: DataRecord, columns: dict[str, list[str]], template: str) -> Row:
    table = _table_id(record)
    if table not in columns:
        raise UserError(f"{record.location} is about the table '{table}', which isn't among the split's tables.")
    shown = {"question": record.text("question").strip(), "columns": " | ".join(columns[table])}
    prompt = DataRecord(shown, record.location).filled(template)
    return {"prompt": prompt, "answer": f" {_sql(record, columns[table])}"}


def _table_id(record: DataRecord) -> str:
    table: str = DataRecord(record["table"], record.location)["id"] if "table" in record else record["table_id"]
    return table


def _headers(source: Source, split: str, records: list[DataRecord]) -> dict[str, list[str]]:
    """The names of each table's columns: from the tables' own file, or from each record where it is the hub's."""
    if not source.has_file(split):
        tables = [DataRecord(record["table"], record.location) for record in records]
    else:
        try:
            tables = source.records(f"tables_{split}")
        except UserError as error:
            raise UserError(f"{error}\nOr set task.options.headers=false to do without names of columns.") from error
    return {
        table["id"]: [" ".join(name.split()) or f"col{index}" for index, name in enumerate(table["header"])]
        for table in tables
    }


def _numbered(records: list[DataRecord]) -> dict[str, list[str]]:
    last: dict[str, int] = {}
    for record in records:
        _, selected, conditions = _query(record)
        table = _table_id(record)
        # As many columns as any of the table's questions needs, the same for all of them.
        last[table] = max(last.get(table, 0), selected, *(column for column, _, _ in conditions))
    return {table: [f"col{index}" for index in range(number + 1)] for table, number in last.items()}


def _query(record: DataRecord) -> tuple[int, int, list[Condition]]:
    """Aggregation, selected column and conditions; the hub keeps these as one list a field, the files as triples."""
    sql = DataRecord(record["sql"], f"{record.location}, sql")
    conditions: Any = sql["conds"]
    # On the hub the conditions stand column by column.
    if isinstance(conditions, dict):
        fields = DataRecord(conditions, f"{sql.location}.conds")
        conditions = zip(fields["column_index"], fields["operator_index"], fields["condition"], strict=True)
    return sql["agg"], sql["sel"], [(column, operator, str(value)) for column, operator, value in conditions]


def _sql(record: DataRecord, columns: Sequence[str]) -> str:
    aggregation, selected, conditions = _query(record)

    def named(names: Sequence[str], index: int, what: str) -> str:
        if not 0 <= index < len(names):
            raise UserError(
                f"{record.location} asks for {what} {index}, but there are only {len(names)}: {', '.join(names)}."
            )
        return names[index]

    parts = ["SELECT", named(AGGREGATIONS, aggregation, "aggregation"), named(columns, selected, "column")]
    clauses = [
        f"{named(columns, column, 'column')} {named(OPERATORS, operator, 'operator')} {_literal(value)}"
        for column, operator, value in conditions
    ]
    # No aggregation is an empty text, which would leave two spaces.
    return " ".join(filter(None, parts)) + " FROM table" + (f" WHERE {' AND '.join(clauses)}" if clauses else "")


def _literal(value: str) -> str:
    return value if NUMBER.fullmatch(value) else f"'{value}'"
