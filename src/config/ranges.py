"""What a setting's value may be, said once, at its field: `rank: Count`, `warmup_ratio: Share`.

Each of these types is a plain one with a rule beside it, which `src.config.build` holds every given value to. A new
field takes the type that fits, or `Annotated[float, Range(0, 10)]`.
"""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from src.errors import UserError

LARGEST_INTEGER = 2**63 - 1  # what a table's column of 64 bits holds
LONGEST_NAME = 64  # characters: several names make up a folder's, which may have 255
_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.+-]{{0,{LONGEST_NAME - 1}}}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Rule(Protocol):
    """What a value has to keep to, beyond its type."""

    def check(self, key: str, value: Any) -> None:
        """Refuse a value of the setting `key`.

        Raises:
            UserError: the value isn't allowed.
        """
        ...  # pragma: no cover


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both allowed unless `above` is set, which leaves out the least one."""

    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    odd: bool = False

    def check(self, key: str, value: float) -> None:
        """Refuse a number that is none, or out of the range."""
        if not math.isfinite(value):
            raise UserError(f"{key}={value} is no finite number.\nAllowed: {self}.")
        if value < self.least or (self.above and value == self.least):
            raise UserError(f"{key}={value} is too small.\nAllowed: {self}.")
        if value > self.most:
            raise UserError(f"{key}={value} is too large.\nAllowed: at most {self.most}.")
        if self.odd and value % 2 == 0:
            raise UserError(f"{key}={value} is even.\nAllowed: {self}; the middle is the prior.")

    def __str__(self) -> str:
        kind = "odd numbers, " if self.odd else ""
        if self.above:
            return f"{kind}a number above {self.least:g}"
        if self.least <= -LARGEST_INTEGER:
            return "any finite number"
        return f"{kind}{self.least:g} " + (
            "or more" if self.most in (math.inf, LARGEST_INTEGER) else f"to {self.most:g}"
        )


@dataclass(frozen=True)
class Naming:
    """Names of methods, models, tasks and targets: they become folders, rows of tables and parts of a web page."""

    def check(self, key: str, value: str) -> None:
        """Refuse what isn't a plain word."""
        if not _NAME.fullmatch(value):
            raise UserError(f"{key}={shown(value)} can't be a name.\nAllowed: {self}.")

    def __str__(self) -> str:
        return f"a letter or digit, then letters, digits and _ . + -, {LONGEST_NAME} at most"


@dataclass(frozen=True)
class NotEmpty:
    """A line of text with something in it."""

    def check(self, key: str, value: str) -> None:
        """Refuse an empty text, and one with line breaks or other control characters."""
        if not value.strip() or _CONTROL.search(value):
            raise UserError(f"{key}={shown(value)} can't be used.\nAllowed: {self}.")

    def __str__(self) -> str:
        return "a text that isn't empty, on one line"


def shown(value: object) -> str:
    """A given value as a message quotes it: on one line, not too long, empty texts and odd characters in quotes."""
    text = str(value)
    text = text if text.isprintable() and text.strip() else repr(text)
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_option(group: str, option: str) -> None:
    """Refuse what can't be a file in `conf/<group>`, such as a path that leads out of it; folders in it are fine.

    Raises:
        UserError: a part of the path isn't a name.
    """
    for part in option.split("/"):
        if not _NAME.fullmatch(part):
            raise UserError(f"{group}={shown(option)} can't be a file in conf/{group}.\nAllowed: {Naming()}.")


Integer = Annotated[int, Range(-LARGEST_INTEGER, LARGEST_INTEGER)]
Count = Annotated[int, Range(1, LARGEST_INTEGER)]
Whole = Annotated[int, Range(0, LARGEST_INTEGER)]
Seed = Annotated[int, Range(0, LARGEST_INTEGER)]
Number = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Name = Annotated[str, Naming()]
Text = Annotated[str, NotEmpty()]
