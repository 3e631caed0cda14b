"""Values and commands as they are typed: in the grammar of options, and as words of a shell."""

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

WORDS = ("null", "true", "false", "nan", "inf")  # which without quotes are no texts


def written(value: Any) -> str:
    """A value as an option takes it: `null`, `[a,b]`, `{a:1}`, and a text in quotes where it needs some."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(written, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{written(item)}" for key, item in value.items()) + "}"
    text = str(value)
    is_plain = re.fullmatch(r"[A-Za-z_/][\w./:-]*", text, re.ASCII) and text.lower() not in WORDS
    return text if is_plain or isinstance(value, int | float) else quoted(text.replace("${", r"\${"))


def quoted(text: str) -> str:
    """A text in the grammar's quotes; a backslash stands for itself, but for those right before a quote."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + (r"\'" if found[2] else ""), text) + "'"


def shell_word(text: str) -> str:
    """A text as one word of a shell's command line, in double quotes where it has single ones, if these do."""
    if "'" in text and not re.search(r'["$`\\!]', text):
        return f'"{text}"'
    return shlex.quote(text)


def command_line(module: str, arguments: Iterable[str]) -> str:
    """`python -m module arguments`, to be pasted into a shell."""
    return " ".join(["python", "-m", module, *map(shell_word, arguments)])
