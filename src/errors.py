"""One exception for everything a user can put right, and the nearest-name hint that its messages share."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what was asked: the message says what was given, what is allowed and what to do."""


def nearest_first(name: str, allowed: Iterable[str]) -> list[str]:
    """Sort `allowed` so that the names most like `name` come first."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=len(names) or 1, cutoff=0.5)
    return near + [name for name in names if name not in near]
