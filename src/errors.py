"""The exceptions that a run's state depends on, and the nearest-name hint that the messages of mistakes share."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in what was asked: the message says what was given, what is allowed and what to do."""


class Diverged(RuntimeError):
    """Something in training or scoring is infinite or NaN: the run has no score."""


def nearest_first(name: str, allowed: Iterable[str]) -> list[str]:
    """Sort `allowed` so that the names most like `given` come first."""
    names = sorted(allowed)
    near = get_close_matches(name, names, n=len(names) or 1, cutoff=0.5)
    return near + [name for name in names if name not in near]
