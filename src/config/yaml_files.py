"""A yaml file that can't be what it looks like: said with its path and line before Hydra reads another thing in it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from src.errors import UserError

# YAML 1.1 reads 010 as 8, 1:30 as 90 and 1_0 as 10, each of which the command line takes for a text.
ODD_NUMBER = r"[-+]?(0[0-9_]+|0[xb][0-9a-fA-F_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?|[0-9]+_[0-9_]*)"
COMMENT = re.compile(r"(^|\s)#.*", re.MULTILINE)
ODD_WORD = re.compile(rf"(?<![^\s\[,{{:]){ODD_NUMBER}(?![^\s,\]}}])")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let the block read a file that is plain UTF-8 and yaml.

    Raises:
        UserError: it has another encoding or a byte order mark, isn't yaml, a key stands in it twice, or a number is
            written so that yaml takes it for another.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8.\nSave it as UTF-8.") from None
    if text.startswith("\ufeff"):
        raise UserError(f"{path} begins with a byte order mark, which hides its first line.\nSave it as plain UTF-8.")
    try:
        _check_numbers(path, text)
        yield
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_problem(text, error)}.\nIndent with spaces, and put odd texts in quotes.") from None
    except OSError:  # which OmegaConf raises for a single number or text
        raise not_a_table(path) from None


def _check_numbers(path: Path, text: str) -> None:
    """Refuse numbers that yaml reads otherwise than they look."""
    if not ODD_WORD.search(COMMENT.sub("", text)):  # parsing takes longer
        return
    for event in yaml.parse(text):
        is_plain = isinstance(event, yaml.ScalarEvent) and event.implicit[0]
        taken = yaml.safe_load(event.value) if is_plain and re.fullmatch(ODD_NUMBER, event.value) else None
        if isinstance(taken, int | float):
            raise UserError(
                f"{path}, line {event.start_mark.line + 1}: yaml takes {event.value} for {taken}.\n"
                "Write the plain number, or put a text in quotes."
            )


def not_a_table(path: Path) -> UserError:
    """The refusal of a file that holds another thing than settings."""
    return UserError(f"{path} is no table of keys and values.\nWrite lines such as rank: 8.")


def _problem(text: str, error: yaml.YAMLError) -> str:
    """What is wrong with the text, and in which line; a tab is told by its name, as yaml doesn't."""
    mark = getattr(error, "problem_mark", None)
    line = mark.line if mark else 0
    given = text.splitlines()[line] if line < len(text.splitlines()) else ""
    indent = given[: len(given) - len(given.lstrip())]
    said = "a tab indents it" if "\t" in indent else getattr(error, "problem", None) or "it isn't yaml"
    return f", line {line + 1}: {said}"
