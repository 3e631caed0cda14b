"""Files of records as they stand: each record with its place, and nothing of a file lost without a word.

A field too many, a name that stands twice, half of a character: whatever a reader would drop, merge or guess at is
refused with its line.
"""

import csv
import gzip
import json
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from src.errors import first_line

Located = Iterator[tuple[str, Any]]  # a place, as in ":17", and what stands there
OTHER_SEPARATORS = {"csv": ";\t|", "tsv": ",;|"}  # that a file of this ending may have been written with
SAVE_AS_UTF_8 = "Save it as UTF-8"
CUT_OFF = "Is the file cut off?"
ESCAPE = len("\\u00e9")  # characters before the end at which a cut escape begins at most
# A text may be longer than the 128 KiB that the csv module takes for an accident.
csv.field_size_limit(2**31 - 1)


class FaultyFile(Exception):
    """What is wrong with a file: the place in it, what stands there, and what to do."""

    def __init__(self, location: str, fault: str, remedy: str) -> None:
        super().__init__(f"{location} {fault}.\n{remedy}")


def located(path: Path, kind: str, header: list[str] | None) -> Located:
    """The records of a file with their places.

    Args:
        kind: one of `ENDINGS`.
        header: names of the columns of a tsv file that has none.

    Raises:
        FaultyFile: it isn't of its kind, or something of it would be lost.
    """
    if kind == "parquet":
        yield from _parquet(path)
        return
    opener: Any = gzip.open if path.suffix.lower() == ".gz" else open
    last = ""
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:  # line ends inside csv fields are kept
            for location, values in READERS[kind](file, header):
                last = location
                yield location, values
    except UnicodeDecodeError as error:
        raise _not_utf_8(path, opener) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        read_so_far = f" after {path}{last}" if last else ""
        unpacked = isinstance(error, gzip.BadGzipFile) and not last
        remedy = f"{CUT_OFF} Or is it not packed, so that its name should not end in .gz?" if unpacked else CUT_OFF
        raise FaultyFile("", f"can't be read{read_so_far}: {error}", remedy) from error


def _not_utf_8(path: Path, opener: Any) -> FaultyFile:
    """The first line that isn't UTF-8, found in the bytes: text is decoded in blocks, which don't know their line."""
    with opener(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
                return FaultyFile(":1", "is UTF-16 or UTF-32", f"{SAVE_AS_UTF_8}.")
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                fault = f"isn't UTF-8: byte 0x{line[error.start]:02x} behind '{line[: error.start].decode()[-20:]}'"
                return FaultyFile(f":{number}", fault, f"{SAVE_AS_UTF_8}; it may be Latin-1 or Windows-1252.")
    raise AssertionError(f"{path} is UTF-8")


def _lines(file: TextIO) -> Iterator[str]:
    """A file's lines; no text has a NUL, which tokenizers drop, but UTF-16 and binary files are full of them."""
    for number, line in enumerate(file, start=1):
        if "\0" in line:
            raise FaultyFile(f":{number}", "holds a NUL character", f"Is it UTF-16? {SAVE_AS_UTF_8}.")
        yield line


# ---- JSON


def _jsonl(file: TextIO, header: list[str] | None) -> Located:
    lines = _lines(file)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = _parsed(line)
        except (ValueError, RecursionError) as error:
            remedy = "Allowed: an object a line, with each name once."
            if number == 1 and line.lstrip().startswith("["):
                remedy = "Allowed: an object a line; a list of objects belongs into a file that ends in .json."
            elif isinstance(error, json.JSONDecodeError) and not any(map(str.strip, lines)):
                remedy = CUT_OFF
            raise FaultyFile(f":{number}", _json_fault(error), remedy) from error
        if _may_halve(line):
            _check_characters(f":{number}", values)
        yield f":{number}", values


def _json(file: TextIO, header: list[str] | None) -> Located:
    text = "".join(_lines(file))
    try:
        items = _parsed(text)
    except json.JSONDecodeError as error:
        remedy = "Allowed: a list of objects."
        if error.msg == "Extra data":
            remedy = "Allowed: a list of objects; an object a line belongs into a file that ends in .jsonl."
        elif error.msg.startswith("Unterminated") or error.pos + ESCAPE >= len(text.rstrip()):
            remedy = CUT_OFF
        raise FaultyFile(f":{error.lineno}", _json_fault(error), remedy) from error
    except (ValueError, RecursionError) as error:
        raise FaultyFile("", _json_fault(error), "Allowed: a list of objects, with each name once.") from error
    may_halve = _may_halve(text)
    for number, item in enumerate(items if isinstance(items, list) else [items]):
        if may_halve:
            _check_characters(f", item {number}", item)
        yield f", item {number}", item


def _parsed(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of which no value is lost because its key stands there twice."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"has the key '{_repeated(key for key, _ in pairs)}' twice")
    return values


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"is not complete JSON: {error.msg} at character {error.colno}"
    return "is nested too deeply" if isinstance(error, RecursionError) else str(error).partition(";")[0]


def _may_halve(text: str) -> bool:
    """Whether JSON escapes halves of characters; to look into every value would take longer than to read it."""
    return "\\ud" in text.lower()


def _check_characters(location: str, value: Any) -> None:
    """Refuse half of a character, which JSON can escape and no file can hold."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x}"
        raise FaultyFile(location, f"has half of a character, {half}", "Write the whole one, or drop it.") from error


# ---- tables


def _csv(file: TextIO, header: list[str] | None) -> Located:
    lines = _csv_rows(file)
    place, names = next(lines, (":1", []))
    _check_names(names, "csv", place)
    rows = list(lines)
    for location, fields in rows:
        _check_fields(location, fields, names, 'A text with a comma must stand in quotes: "...".')
    _check_quotes(rows, len(names))
    for location, fields in rows:
        # A field that a short line lacks is left out, so that asking for it names the missing column.
        yield location, dict(zip(names, fields, strict=False))


def _csv_rows(file: TextIO) -> Iterator[tuple[str, list[str]]]:
    """The rows of a csv file by the line that they begin in."""
    reader = csv.reader(_lines(file), strict=True)  # else a file that ends inside quotes would pass
    start = 1
    try:
        for fields in reader:
            if fields:
                yield f":{start}", fields
            start = reader.line_num + 1
    except csv.Error as error:
        ends = "end of data" in str(error)
        remedy = f"Is a quote left open? {CUT_OFF}" if ends else 'A quote inside quotes is written twice: "".'
        raise FaultyFile(f":{start}", f"can't be read: {error}", remedy) from error


def _tsv(file: TextIO, header: list[str] | None) -> Located:
    # Split by hand: a csv reader would give quotes a meaning.
    lines = _lines(file)
    names = header or next(lines, "").rstrip("\r\n").split("\t")
    _check_names(names, "tsv", ":1")
    for number, line in enumerate(lines, start=1 if header else 2):
        if line.strip("\r\n"):
            fields = line.rstrip("\r\n").split("\t")
            while len(fields) > len(names) and not fields[-1]:  # a tab at the end separates nothing
                fields.pop()
            _check_fields(f":{number}", fields, names, "A text can't hold a tab here; csv and jsonl files can.")
            yield f":{number}", dict(zip(names, fields, strict=False))


def _check_names(names: list[str], kind: str, location: str) -> None:
    """Refuse a header that another kind of file has, or that names two columns alike."""
    other = next((mark for mark in OTHER_SEPARATORS[kind] if len(names) == 1 and mark in names[0]), None)
    if other:
        allowed = "commas, as a .csv file has" if kind == "csv" else "tabs, as a .tsv file has"
        shown = "tabs" if other == "\t" else f"'{other}'"
        remedy = f"Save it with {allowed}{', or end its name in .tsv' if other == chr(9) else ''}."
        raise FaultyFile(location, f"separates its columns by {shown}: {names[0][:60]!r}", remedy)
    if (repeated := _repeated(names)) is not None:
        raise FaultyFile(location, f"names two columns '{repeated}'", "Give each its own name.")


def _check_fields(location: str, fields: list[str], names: list[str], remedy: str) -> None:
    """Refuse a row of which something has no column, and a header among the rows."""
    if len(fields) > len(names):
        surplus = ", ".join(f"'{field[:40]}'" for field in fields[len(names) :][:3])
        fault = f"has {len(fields)} fields for {len(names)} columns ({', '.join(names)}); too many: {surplus}"
        raise FaultyFile(location, fault, remedy)
    if fields == names:
        raise FaultyFile(location, "repeats the header", "Are two files joined? Delete the line.")


def _check_quotes(rows: list[tuple[str, list[str]]], columns: int) -> None:
    """Refuse rows that became one because a quote was left open.

    A field of several lines is taken for that where one of its lines is a row itself: it has all columns, and one of
    them has the value of another row, as a class does.
    """
    spread = [(location, fields) for location, fields in rows if any("\n" in field for field in fields)]
    if not spread:
        return
    whole = [fields for _, fields in rows if len(fields) == columns and not any("\n" in field for field in fields)]
    counts = [Counter(fields[column] for fields in whole) for column in range(columns)]
    # A class is there more than once; a column of texts, which are all different, says nothing.
    classes = {column: count for column, count in enumerate(counts) if len(count) < len(whole)}
    for location, fields in spread:
        for line in (line for field in fields if "\n" in field for line in field.splitlines()):
            inner = line.split(",")
            is_row = len(inner) == columns > 1 and not any(part.startswith(" ") for part in inner)
            if is_row and any(inner[column].strip('"') in count for column, count in classes.items()):
                fault = f"has a field with line ends in it, and the row '{line[:60]}' among its lines"
                raise FaultyFile(location, fault, "Is a quote left open? Close it, or write it twice.")


def _repeated(names: Iterable[str]) -> str | None:
    return next((name for name, count in Counter(names).items() if count > 1), None)


# ---- texts and parquet


def _txt(file: TextIO, header: list[str] | None) -> Located:
    for number, line in enumerate(_lines(file), start=1):
        yield f":{number}", {"line": line.rstrip("\r\n")}


def _parquet(path: Path) -> Located:
    # Imported here, as it takes long and other files need none of it.
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
        if (repeated := _repeated(table.column_names)) is not None:
            raise FaultyFile("", f"names two columns '{repeated}'", "Give each its own name.")
        yield from ((f", row {number}", values) for number, values in enumerate(table.to_pylist()))
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise FaultyFile("", f"can't be read as parquet: {first_line(error)}", CUT_OFF) from error


Reader = Callable[[TextIO, list[str] | None], Located]
READERS: dict[str, Reader] = {"jsonl": _jsonl, "json": _json, "csv": _csv, "tsv": _tsv, "txt": _txt}
ENDINGS = (*READERS, "parquet")
