"""A task's records as they were published: from a folder with the original files, or from the hub.

Both give plain dicts that know their location, so that whatever is wrong with one is said with its file and line.
"""

import math
import re
from collections.abc import Iterator
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from string import Formatter
from typing import Any

from src.config.schema import SourceConfig, TaskConfig
from src.errors import UserError, first_line, nearest_first
from src.hub import hub_folder
from src.tasks.file_formats import ENDINGS, FaultyFile, located

# Python's `float` also takes "nan", "1_000" and the digits of other scripts.
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)
SHOWN_CHARACTERS = 60


class DataRecord(dict[str, Any]):
    """One record by its columns; `location` says where it stands, as in "train.jsonl:17"."""

    def __init__(self, values: dict[str, Any], location: str) -> None:
        super().__init__(values)
        self.location = location

    def __missing__(self, column: str) -> Any:
        has = ", ".join(nearest_first(column, map(str, self)))
        raise UserError(
            f"{self.location} has no column '{column}'.\nIt has: {has}.\nIs it another set's file, or cut off?"
        )

    def first(self, columns: str) -> Any:
        """The value in the first column that the record has of several, as in "dialogue | context"."""
        return self[self._first_name(columns)]

    def _first_name(self, columns: str) -> str:
        # Where none is there, the first is asked for, whose absence is then said.
        names = columns.split(" | ")
        return next((name for name in names if name in self), names[0])

    def text(self, columns: str) -> str:
        """The text in the first column that the record has of several.

        Raises:
            UserError: there is something else than a text, which would be written in Python's words, as "None".
        """
        value = self.first(columns)
        if isinstance(value, str):
            return value
        remedy = "Give the row a text, or leave it out" if value is None else f'Allowed: a text, as in "{value}"'
        remedy = "Allowed: a text" if isinstance(value, list | dict | bytes) else remedy
        raise UserError(
            f"{self.location} has {_shown(value)} in column '{self._first_name(columns)}', where a text must be.\n"
            f"{remedy}."
        )

    def number(self, column: str) -> float:
        """The finite number in a column, which may be written as text.

        Raises:
            UserError: it is none; nor is a truth value or an empty field.
        """
        value = self[column]
        is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)
        if is_number or (isinstance(value, str) and NUMBER.fullmatch(value) and math.isfinite(float(value))):
            return float(value)
        raise UserError(
            f"{self.location} has {_shown(value)} in column '{column}', where a number must be.\n"
            "Allowed: a finite number with a decimal point, as in 3.5."
        )

    def label(self, column: str, names: list[str]) -> int:
        """The class in a column that has its name or its index.

        Where a class is named by a number, as in "1" to "5", an index would be taken for a name: then only names count.

        Raises:
            UserError: it is neither, or not written as the one of the two.
        """
        value = self[column]
        # Null is written as nothing, which is no class's name or index.
        text = str(value) if isinstance(value, str | int) else ""
        if text in names:
            return names.index(text)
        has_indices = not any(NUMBER.fullmatch(name) for name in map(str, names))
        # By its own digits alone: "01", " 1", 1.0 and true may each be meant otherwise.
        if has_indices and text in map(str, range(len(names))):
            return int(text)
        allowed = ", ".join(f"{name} ({index})" if has_indices else str(name) for index, name in enumerate(names))
        raise UserError(f"{self.location} has the label '{value}' in column '{column}'.\nAllowed: {allowed}.")

    def filled(self, template: str, option: str = "task.prompt") -> str:
        """The template with the record's values in place of the columns' names in braces.

        Args:
            option: the setting that holds the template, for the message.

        Raises:
            UserError: a brace is left open, or holds no column's name, or the column holds no plain value.
        """
        return "".join(
            literal + ("" if column is None else self._plain(column, option))
            for literal, column in _pieces(template, option)
        )

    def _plain(self, column: str, option: str) -> str:
        if column not in self:
            has = ", ".join(nearest_first(column, map(str, self)))
            raise UserError(
                f"{option} asks for {{{column}}}; {self.location} has no column '{column}'.\nIt has: {has}.\n{BRACES}"
            )
        value = self[column]
        if isinstance(value, str | int | float):
            return str(value)
        raise UserError(
            f"{option} asks for {{{column}}}; {self.location} has {_shown(value)} there.\nAllowed: a text or a number."
        )


BRACES = "A brace that is part of the text is written twice: {{ or }}."


@lru_cache(maxsize=64)
def _pieces(template: str, option: str) -> list[tuple[str, str | None]]:
    """A template as literal texts, each with the column behind it; the last may have none."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"{option} has an open brace: {error}.\n{BRACES}") from error
    for _, column, form, conversion in parsed:
        if column is not None and (not column or form or conversion):
            shown = f"{column}{f'!{conversion}' if conversion else ''}{f':{form}' if form else ''}"
            raise UserError(f"{option} has braces without a column's name: {{{shown}}}.\n{BRACES}")
    return [(literal, column) for literal, column, _, _ in parsed]


def _shown(value: Any) -> str:
    """A value for people: null for None, and not too long."""
    text = "null" if value is None else str(value)
    text = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
    return text if value is None or isinstance(value, int | float | bytes) else f"'{text}'"


class Source:
    """Where a task's loader gets its records; `cache_dir` is for what a loader makes itself."""

    def __init__(self, task: TaskConfig, cache_dir: Path) -> None:
        self.task, self.cache_dir = task, cache_dir

    def has_file(self, part: str) -> bool:
        """Whether a part comes from `task.data_dir`, where its columns may be named otherwise than on the hub."""
        source = self._source(part)
        return self.task.data_dir is not None and bool(source.file or not source.hub_id)

    def parts(self, split: str) -> list[str]:
        """The parts of a split: itself, or each "<split>_<set>" where it is made of several sets."""
        return [part for part in self.task.sources if part == split or part.startswith(f"{split}_")]

    def records(self, part: str, *, header: list[str] | None = None) -> list[DataRecord]:
        """All records of a part, in their order.

        Args:
            header: column names of a tsv file that has none.

        Raises:
            UserError: the part isn't there, can't be read, or is empty.
        """
        source, has_file = self._source(part), self.has_file(part)
        # All at once, so that a broken last line shows before anything is computed with the first.
        records = list(self._from_file(part, source, header) if has_file else self._from_hub(part, source))
        if not records:
            where = self._path(source) if has_file else f"{source.hub_id} {source.split}"
            raise UserError(f"task={self.task.name}: {where} has no rows, but '{part}' is made of them.")
        return records

    def _source(self, part: str) -> SourceConfig:
        if part not in self.task.sources:
            has = ", ".join(nearest_first(part, self.task.sources)) or "none"
            raise UserError(
                f"task={self.task.name} needs the part '{part}', which task.sources doesn't have.\nIt has: {has}.\n"
                f"Give it as task.sources.{part}.file=... (see conf/task/{self.task.name}.yaml)."
            )
        return self.task.sources[part]

    def _path(self, source: SourceConfig) -> Path:
        return Path(self.task.data_dir or "") / (source.file or "")

    def _from_file(self, part: str, source: SourceConfig, header: list[str] | None) -> Iterator[DataRecord]:
        folder = Path(self.task.data_dir or "")
        if not folder.is_dir():
            raise UserError(f"task.data_dir={folder} is not a folder.\nGive the one that holds {source.file}.")
        path = self._path(source)
        if not source.file or not path.is_file():
            problem = f"{path} is a folder, not a file" if path.is_dir() else f"{path} doesn't exist"
            problem = problem if source.file else f"task={self.task.name} names no file for '{part}'"
            raise UserError(
                f"{problem}.\ntask.data_dir={folder} has: {_listing(folder, source.file or '')}.\n"
                f"Give the folder that holds {source.file or 'the file'}, or set task.sources.{part}.file=..."
            )
        yield from read(path, header=header)

    def _from_hub(self, part: str, source: SourceConfig) -> Iterator[DataRecord]:
        remedy = f"Set task.data_dir=<folder> to one that holds {source.file} (see conf/task/{self.task.name}.yaml)"
        if not source.file:
            remedy = f"Set task.sources.{part}.file=<file>, and task.data_dir=<folder> with it in"
        if source.hub_id is None:
            raise UserError(f"task={self.task.name} isn't on the hub: '{part}' must come from files.\n{remedy}.")
        if source.split is None:
            raise UserError(f"task.sources.{part}.split is null: which split of {source.hub_id}?\n{remedy}.")
        remedy += ", or run once with a network, which fills the cache."
        folder = hub_folder(source.hub_id, source.revision, kind="dataset", patterns=None, remedy=remedy)
        # Imported here, as it takes long and files need none of it.
        import datasets

        try:
            rows = datasets.load_dataset(str(folder), source.hub_config, split=source.split)
        except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"task={self.task.name}: {source.hub_id} can't be read as configuration {source.hub_config}, split "
                f"{source.split}: {first_line(error)}.\n{remedy}"
            ) from error
        for number, row in enumerate(rows):
            yield DataRecord(row, f"{source.hub_id} {source.split}, row {number}")


def read(path: Path, *, header: list[str] | None = None) -> Iterator[DataRecord]:
    """The records of a file, read as its ending says: jsonl, json, csv, tsv, txt or parquet, the texts also with .gz.

    A txt file's records have their line as `line`. A tsv file is GLUE's: fields between tabs, quotes are characters
    like others; a line with too few fields lacks the last columns.

    Raises:
        UserError: the file isn't what its ending says, or something of it would be lost; with its name and line.
    """
    kind = ending(path)
    if kind not in ENDINGS:
        raise UserError(f"{path}: files ending in .{kind} can't be read.\nAllowed: {', '.join(sorted(ENDINGS))}.")
    try:
        for location, values in located(path, kind, header):
            if not isinstance(values, dict):
                raise UserError(f"{path}{location} is a {type(values).__name__}, not an object with columns.")
            yield DataRecord(values, f"{path}{location}")
    except FaultyFile as fault:
        raise UserError(f"{path}{fault}") from fault


def ending(path: Path) -> str:
    """What a file's name says of its kind: its ending, without the .gz that may follow it."""
    return path.name.lower().removesuffix(".gz").rpartition(".")[2]


def _listing(folder: Path, name: str) -> str:
    """What the folder holds, the likeliest first: files where `name` is one, else folders too."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*")) + sorted(folder.glob("*/*"))]
    shown = nearest_first(name, names)[:6]
    return (", ".join(shown) + (", ..." if len(names) > len(shown) else "")) if names else "nothing"
