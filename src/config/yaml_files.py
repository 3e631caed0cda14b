"""A yaml file that can't be what it looks like: said with its path and line before Hydra reads another thing in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from src.errors import UserError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Let the block read a file that is plain UTF-8 and yaml.

    Raises:
        UserError: it has another encoding or a byte order mark, isn't yaml, or a key stands in it twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text in UTF-8.\nSave it as UTF-8.") from None
    if text.startswith("\ufeff"):
        raise UserError(f"{path} begins with a byte order mark, which hides its first line.\nSave it as plain UTF-8.")
    try:
        yield
    except yaml.YAMLError as error:
        raise UserError(f"{path}{_problem(text, error)}.\nIndent with spaces, and put odd texts in quotes.") from None
    except OSError:  # which OmegaConf raises for a single number or text
        raise not_a_table(path) from None


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
