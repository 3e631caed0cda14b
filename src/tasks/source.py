"""A task's records as they were published: from a folder with the original files, or from the hub.

Both give plain dicts that know their location, so that whatever is wrong with one is said with its file and line.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from src.config.schema import SourceConfig, TaskConfig
from src.errors import UserError, nearest_first
from src.hub import hub_folder


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
        names = columns.split(" | ")
        return self[next((name for name in names if name in self), names[0])]

    def label(self, column: str, names: list[str]) -> int:
        """The class in a column that has its name or its index.

        Raises:
            UserError: it is neither.
        """
        value = self[column]
        if value in names:
            return names.index(value)
        if str(value).isdecimal() and int(value) < len(names):
            return int(value)
        allowed = ", ".join(f"{name} ({index})" for index, name in enumerate(names))
        raise UserError(f"{self.location} has the label '{value}' in column '{column}'.\nAllowed: {allowed}.")


class Source:
    """Where a task's loader gets its records; `cache_dir` is for what a loader makes itself."""

    def __init__(self, task: TaskConfig, cache_dir: Path) -> None:
        self.task, self.cache_dir = task, cache_dir

    def has_file(self, part: str) -> bool:
        """Whether a part comes from `task.data_dir`, where its columns may be named otherwise than on the hub."""
        source = self.task.sources[part]
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
        source, has_file = self.task.sources[part], self.has_file(part)
        records = list(self._from_file(part, source, header) if has_file else self._from_hub(part, source))
        if not records:
            where = self._path(source) if has_file else f"{source.hub_id} {source.split}"
            raise UserError(f"task={self.task.name}: {where} has no rows, but '{part}' is made of them.")
        return records

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
        import datasets

        try:
            rows = datasets.load_dataset(str(folder), source.hub_config, split=source.split)
        except (ValueError, FileNotFoundError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"task={self.task.name}: {source.hub_id} can't be read as configuration {source.hub_config}, split "
                f"{source.split}: {str(error).splitlines()[0][:160]}.\n{remedy}"
            ) from error
        for number, row in enumerate(rows):
            yield DataRecord(row, f"{source.hub_id} {source.split}, row {number}")


def read(path: Path, *, header: list[str] | None = None) -> Iterator[DataRecord]:
    """The records of a file, read as its ending says: jsonl, json, csv, tsv or txt, with .gz or without.

    A txt file's records have their line as `line`. A tsv file is GLUE's: fields between tabs, quotes are characters
    like others; a line with too few fields lacks the last columns.

    Raises:
        UserError: the file isn't what its ending says; with its name and line.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind not in READERS:
        raise UserError(f"{path}: files ending in .{kind} can't be read.\nAllowed: {', '.join(sorted(READERS))}.")
    opener: Any = gzip.open if path.suffix == ".gz" else open
    last = str(path)
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:  # line ends inside csv fields are kept
            for location, values in READERS[kind](file, header):
                last = f"{path}{location}"
                if not isinstance(values, dict):
                    raise UserError(f"{last} is a {type(values).__name__}, not an object with columns.")
                yield DataRecord(values, last)
    except _NotJson as error:
        raise UserError(f"{path}{error.location} is not complete JSON: {error}.\nIs the file cut off?") from error
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error, csv.Error) as error:
        read_so_far = "" if last == str(path) else f" after {last}"
        raise UserError(f"{path} can't be read{read_so_far}: {error}.\nIs the file cut off?") from error


class _NotJson(Exception):
    def __init__(self, location: str, error: json.JSONDecodeError) -> None:
        super().__init__(f"{error.msg} at character {error.colno}")
        self.location = location


Located = Iterator[tuple[str, Any]]


def _jsonl(file: TextIO, header: list[str] | None) -> Located:
    for number, line in enumerate(file, start=1):
        if line.strip():
            try:
                yield f":{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise _NotJson(f":{number}", error) from error


def _json(file: TextIO, header: list[str] | None) -> Located:
    try:
        items = json.load(file)
    except json.JSONDecodeError as error:
        raise _NotJson(f":{error.lineno}", error) from error
    for number, item in enumerate(items if isinstance(items, list) else [items]):
        yield f", item {number}", item


def _csv(file: TextIO, header: list[str] | None) -> Located:
    reader = csv.DictReader(file, strict=True)  # else a file that ends inside quotes would pass
    for values in reader:
        yield f":{reader.line_num}", {key: value for key, value in values.items() if value is not None}


def _tsv(file: TextIO, header: list[str] | None) -> Located:
    names = header or next(file, "").rstrip("\r\n").split("\t")
    for number, line in enumerate(file, start=1 if header else 2):
        if line.strip("\r\n"):
            yield f":{number}", dict(zip(names, line.rstrip("\r\n").split("\t"), strict=False))


def _txt(file: TextIO, header: list[str] | None) -> Located:
    for number, line in enumerate(file, start=1):
        yield f":{number}", {"line": line.rstrip("\r\n")}


READERS = {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _tsv, "txt": _txt}


def _listing(folder: Path, name: str) -> str:
    """What the folder holds, the likeliest first: files where the name name is one, else folders too."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*")) + sorted(folder.glob("*/*"))]
    shown = nearest_first(name, names)[:6]
    return (", ".join(shown) + (", ..." if len(names) > len(shown) else "")) if names else "nothing"
