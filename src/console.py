"""What is printed: its reader may go away, its encoding may lack a character, and neither stops the program."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

GONE = (errno.EPIPE, errno.EIO)  # the reader has seen enough, as `head` does, or the terminal was closed
DUMB = ("dumb", "unknown")  # values of TERM for terminals that can't rewrite a line
USUAL_COLUMNS = 80


class _Output(io.FileIO):
    """A standard stream that drops what can no longer be written, and remembers why."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write what can be written."""
        if self.lost is None:
            try:
                return super().write(data)
            except OSError as error:
                self.lost = error
        return memoryview(data).nbytes


@contextmanager
def steady_output(*, is_product: bool = False) -> Iterator[None]:
    """Let nothing about standard output and error end the program or change what it does.

    Args:
        is_product: what is printed is all that the program makes, so that losing it is a failure, with status 2.
    """
    _open_missing()
    out = _Output(1, "wb", closefd=False)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _text(out, sys.stdout), _text(_Output(2, "wb", closefd=False), sys.stderr)
    try:
        yield
    finally:
        sys.stdout.flush()
        if out.lost and out.lost.errno not in GONE:
            print(f"error: what was to be printed couldn't be written: {out.lost.strerror}", file=sys.stderr)
            if is_product and sys.exception() is None:
                sys.exit(2)
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _open_missing() -> None:
    """Give a stream that was closed (`>&-`) a place: the next file to be opened would take its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _text(output: _Output, before: TextIO | None) -> TextIO:
    """The stream as text, in the encoding that it had; what that lacks is escaped, as "±" is to \\xb1."""
    with suppress(OSError, AttributeError):
        before.flush()  # type: ignore[union-attr]  # caught
    lines = getattr(before, "line_buffering", True) or output.isatty()
    encoding = getattr(before, "encoding", None) or "utf-8"
    unbuffered = getattr(before, "write_through", False)  # as by PYTHONUNBUFFERED
    buffer: Any = output if unbuffered else io.BufferedWriter(output)
    return io.TextIOWrapper(buffer, encoding, errors="backslashreplace", line_buffering=lines, write_through=unbuffered)


def is_live() -> bool:
    """Say whether a line that was printed can be rewritten."""
    return _isatty() and os.environ.get("TERM") not in DUMB


def columns() -> int | None:
    """How many characters fit in a line of the terminal; None where the output is no terminal."""
    if not _isatty():
        return None
    # Of the terminal itself: COLUMNS may be of another, of an earlier size, or no number.
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or USUAL_COLUMNS
    except OSError:
        return USUAL_COLUMNS


def _isatty() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def one_line(text: str, width: int) -> str:
    """The beginning of a text that takes one line of `width` characters at most, wide ones counted as two."""
    from rich.cells import chop_cells

    line = " ".join(text.split("\n"))
    return chop_cells(line, width)[0] if line and width > 0 else ""
