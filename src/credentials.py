"""Keys and passwords: refused in a run's config and blotted out of texts, as neither may come to lie on the disk.

They belong in environment variables, which no record has.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from src.errors import UserError

BLOT = "[secret]"
SHORTEST = 8  # characters of an environment variable's value that can be told from a word
WORD = (
    r"(?:api|access|auth|secret|private|account|hf|wandb|openai)[_-]?(?:key|token)"
    r"|passw(?:or)?d|passphrase|pwd|secret|credentials?"
)
NAME = re.compile(rf"(?:^|[_.-])(?:{WORD})$", re.IGNORECASE)  # of an option
VARIABLE = re.compile(r"KEY$|TOKEN$|SECRET|PASSW|PASSPHRASE|CREDENTIAL", re.IGNORECASE)  # of the environment
# What stands in an address, as in https://user:password@host or ?api_key=..., and keys that say what they are.
PARTS = (
    r"(?<=://)[^/\s@'\"]+(?=@)",
    rf"(?<=[?&;#])(?:[\w-]*(?:{WORD})|token|key|sig|signature)=[^&;#\s'\"]+",
    r"\b(?:sk|pk|rk)-[\w-]{16,}",
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|xox[abp]-|AKIA|AIza|wandb_v1_)[\w-]{16,}",
    r"\beyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]*",
)


def check_no_secret(config: Mapping[str, Any]) -> None:
    """Make sure that no value of a config is a key or a password, or has one in it.

    Raises:
        UserError: one is; the message has the option's name alone.
    """
    for key, value in _texts(config):
        if NAME.search(key) or secrets_in(value):
            raise UserError(
                f"{key} holds a key or a password, which would be stored with every result.\n"
                "Take it out; keys are read from environment variables (the judge's from the one that "
                "task.judge.key_variable names)."
            )


def secrets_in(text: str) -> list[str]:
    """The parts of a text that are keys or passwords, by their look or as an environment variable holds them."""
    return [match.group() for match in _pattern(_held()).finditer(text)]


def redacted(text: str) -> str:
    """The text without its keys and passwords."""
    return _pattern(_held()).sub(BLOT, text)


def _held() -> frozenset[str]:
    """The secrets in the environment."""
    held = (value.strip() for name, value in os.environ.items() if VARIABLE.search(name))
    return frozenset(value for value in held if len(value) >= SHORTEST)


@lru_cache(maxsize=4)
def _pattern(held: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join([*map(re.escape, sorted(held, key=len, reverse=True)), *PARTS]), re.IGNORECASE)


def _texts(values: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts that are not empty, of nested dicts and lists, by their dotted keys."""
    if isinstance(values, str):
        yield from [(key, values)] if values else []
    elif isinstance(values, Mapping):
        for name, value in values.items():
            # A name may hold one too: it is stored as well.
            yield from [(key, str(name))]
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _texts(value, key)
