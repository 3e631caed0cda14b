"""What is printed stops nothing: closed streams, full disks, narrow encodings, terminals of any width."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from src import console
from src.console import one_line
from src.running.progress import RunLine
from tests.conftest import ROOT

PRINTS = """
import sys
from src.console import steady_output
with steady_output(is_product={product}):
    for number in range(2000):
        print("a line with \\u00b1 and \\u4f60 and \\udcff", number)
    print("to the other one", file=sys.stderr)
    if {status}: sys.exit({status})
"""


def printing(where: str, *, product: bool = False, status: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """A program that prints a lot, in a shell whose redirection is `where`."""
    script = PRINTS.format(product=product, status=status)
    line = f'"$PYTHON" -c "$SCRIPT" {where}'
    shell = {**os.environ, "PYTHON": sys.executable, "SCRIPT": script, **environ}
    command = ["bash", "-o", "pipefail", "-c", line]
    return subprocess.run(command, cwd=ROOT, env=shell, capture_output=True, encoding="latin-1")


@pytest.mark.parametrize(
    "where", ["| head -1", "| true", "2>&1 | true", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", ">/dev/full"]
)
def test_where_the_output_goes_decides_nothing(where: str) -> None:
    done = printing(where)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr


def test_a_lost_output_is_said_and_fails_a_program_that_makes_nothing_else() -> None:
    for product, status in ((False, 0), (True, 2)):
        done = printing(">/dev/full", product=product)
        assert done.returncode == status
        assert "couldn't be written: No space left on device" in done.stderr
    assert printing("| head -1", product=True).returncode == 0  # as much as was asked for
    assert printing(">/dev/full", product=True, status=1).returncode == 1  # the program's own reason comes first


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8", "ascii:strict"])
def test_a_character_that_the_encoding_lacks_is_escaped(encoding: str) -> None:
    done = printing("| tail -1", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" 1999\n")
    assert r"\udcff" in done.stdout


def test_unbuffered_output_stays_unbuffered() -> None:
    script = (
        "import os; from src.console import steady_output\n"
        "with steady_output():\n    print('printed at once', end='')\n    os._exit(0)"
    )
    for variable, printed in (("1", b"printed at once"), ("", b"")):
        environ = {**os.environ, "PYTHONUNBUFFERED": variable}
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True)
        assert done.stdout == printed


def test_a_file_never_takes_the_place_of_a_closed_stream(tmp_path: Path) -> None:
    script = (
        "import os; from src.console import steady_output\n"
        "with steady_output():\n"
        f"    file = open({str(tmp_path / 'data')!r}, 'w')\n"
        "    os.write(1, b'printed by a library'); os.write(2, b'and another'); file.write('data')\n"
    )
    subprocess.run(["bash", "-c", '"$0" -c "$1" >&- 2>&-', sys.executable, script], cwd=ROOT, check=True)
    assert (tmp_path / "data").read_text() == "data"


@contextmanager
def terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Standard output as a terminal of so many columns; what was printed is in the list at the end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    printed, read = list[str](), bytearray()

    def collect() -> None:
        try:
            while part := os.read(ours, 65536):
                read.extend(part)
        except OSError:  # the other end was closed
            pass

    reader = threading.Thread(target=collect)
    reader.start()
    with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setenv("TERM", "xterm")
        yield printed
    reader.join()
    os.close(ours)
    printed.append(read.decode().replace("\r\n", "\n"))


def rows_of(text: str, width: int) -> list[str]:
    """What a terminal of so many columns shows of a text with carriage returns and "clear to the end of the line"."""
    rows, column = [""], 0
    for part in text.replace("\x1b[K", "\x00").replace("\n", "\x01"):
        if part == "\r":
            column = 0
        elif part == "\x00":
            rows[-1] = rows[-1][:column]
        elif part == "\x01":
            rows.append("")
            column = 0
        else:
            if column == width:
                rows.append("")
                column = 0
            rows[-1] = rows[-1][:column] + part + rows[-1][column + 1 :]
            column += 1
    return rows


@pytest.mark.parametrize("width", [1, 20, 40, 80, 200])
@pytest.mark.parametrize("columns", [None, "0", "text", "1000", "-3"])
def test_a_live_line_is_one_line_at_any_width(width: int, columns: str | None, monkeypatch: Any) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    with terminal(width, monkeypatch) as printed:
        line = RunLine("[1/3]", "lora-r8-attention_ffn-s0", 1000)
        line.show("loading")
        for step in range(100, 1000, 100):
            line.show_step(step, {"loss": 0.1234, "validation": 0.5, "another": 12.25})
        line.show("two\nlines")
        line.end("done")
    assert [row for row in rows_of(printed[0], width) if row.strip()] == [
        row for row in rows_of("  [1/3] lora-r8-attention_ffn-s0      done", width) if row.strip()
    ]


def test_a_line_of_its_own_stays_above_the_live_one(monkeypatch: Any) -> None:
    with terminal(60, monkeypatch) as printed:
        line = RunLine("[1/1]", "lora", 10)
        line.show("loading")
        line.say("W&B: gone")
        line.end("done")
    assert [row.split() for row in rows_of(printed[0], 60)][:2] == [["W&B:", "gone"], ["[1/1]", "lora", "done"]]


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_rewrite_a_line_gets_plain_ones(term: str, monkeypatch: Any) -> None:
    with terminal(80, monkeypatch) as printed:
        monkeypatch.setenv("TERM", term)
        line = RunLine("[1/1]", "lora", 10)
        line.show_step(1, {"loss": 0.5})
        line.say("W&B: gone")
        line.end("done")
    assert "\x1b" not in printed[0]
    assert "\r" not in printed[0]
    assert len(printed[0].splitlines()) == 2


def test_no_terminal_has_no_width_and_none_that_says_nothing_is_80(monkeypatch: Any) -> None:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        monkeypatch.setattr(sys, "stdout", nowhere)
        assert console.columns() is None
    monkeypatch.setattr(sys, "stdout", None)
    assert console.columns() is None
    with terminal(0, monkeypatch):
        assert console.columns() == 80


def test_wide_characters_take_two_columns() -> None:
    assert one_line("abc", 2) == "ab"
    assert one_line("你好吗", 5) == "你好"
    assert one_line("", 5) == one_line("abc", 0) == ""
