"""The exceptions that a run's state depends on, and what the messages of mistakes share."""

from collections.abc import Iterable
from difflib import get_close_matches
from textwrap import shorten

SHOWN_CHARACTERS = 200  # of what a library says


class UserError(Exception):
    """A mistake in what was asked: the message says what was given, what is allowed and what to do."""


class Diverged(RuntimeError):
    """Something in training or scoring is infinite or NaN: the run has no score."""


def nearest_first(name: str, allowed: Iterable[str]) -> list[str]:
    """Sort `allowed` so that the names most like `given` come first."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=len(names) or 1, cutoff=0.5)
    return near + [name for name in names if name not in near]


def first_line(error: BaseException) -> str:
    """What another library's exception says, in a line; its class where it says nothing."""
    lines = (line for line in str(error).splitlines() if line.strip())
    return shorten(next(lines, type(error).__name__), SHOWN_CHARACTERS, placeholder=" ...")
