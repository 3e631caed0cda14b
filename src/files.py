"""Files that appear whole or not at all, JSON as its standard has it, and caches that are made again."""

import errno
import gzip
import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any

PARTIAL = re.compile(r"\..+\.\d+-[0-9a-f]{8}")  # as `replacing` names what isn't whole yet


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a path beside `path` to write to, and move it into place if all went well.

    The file has the permissions that the umask gives, whichever library wrote it. Its bytes are on the disk before it
    has its name, and its name when the block ends, so that a machine that goes down leaves the old file or the new one.

    Args:
        durable: whether a machine that goes down matters, for which the disk is waited for.
    """
    # Containers that share a folder may have equal process ids.
    partial = path.with_name(f".{path.name}.{os.getpid()}-{token_hex(4)}")
    try:
        partial.touch()
        mode = partial.stat().st_mode
        yield partial
        # safetensors writes to a temporary file of its own, which nobody else may read.
        partial.chmod(mode)
        if durable:
            _sync(partial)
        partial.replace(path)
        if durable:
            _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def remove_partial(folder: Path) -> None:
    """Remove what a writer left that was killed in the midst of `replacing`; nobody may be writing there now."""
    for path in folder.glob(".*.*-????????"):
        if PARTIAL.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # A file system that knows no such thing is no reason to lose the file; one that is full is.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def open_to_others(folder: Path) -> None:
    """Give the files in a folder the permissions that the umask gives; libraries make some for their owner alone."""
    with replacing(folder / "probe") as probe:
        mode = probe.stat().st_mode
    (folder / "probe").unlink()
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def write_text(path: Path, text: str) -> None:
    """Write `text` in UTF-8, whatever the locale, so that the file appears whole or not at all."""
    with replacing(path) as partial:
        # Half of a surrogate pair, as in a file's name that is no UTF-8, becomes \udcxx: in JSON, its own notation.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: Any) -> None:
    """Write `content` so that the file appears whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        ValueError: the text isn't JSON by the letter: cut off, no UTF-8, nested without end, a key there twice, a
            number that is infinite or NaN, half a surrogate pair.
        OSError: the file can't be read.
    """
    text = path.read_text(encoding="utf-8")
    try:
        content = json.loads(text, parse_constant=_refused, parse_float=_finite, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Rare enough for a second pass: such a text can't be written to any file.
    if "\\ud" in text.lower():
        json.dumps(content, ensure_ascii=False).encode()
    return content


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return values


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON value that `make` gives, kept in `path` (.json.gz) for the next time.

    A file that is damaged is made again, and a folder that can't be written to is done without.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            digest, text = file.readline(), file.read()
        if digest.strip() == _digest(text):
            return json.loads(text)
    except (OSError, EOFError, ValueError, zlib.error):  # not there yet, cut off or overwritten
        pass
    value = make()
    text = json.dumps(value)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial, gzip.open(partial, "wt", encoding="utf-8") as file:
            file.write(f"{_digest(text)}\n{text}")
    except OSError as error:
        print(f"{path.parent} can't be written ({error.strerror}): what it would keep is made again each time")
    return value


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
