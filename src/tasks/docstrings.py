"""Which library does this docstring come from?

Ten classes of real English text that is on every machine able to run this project: the first paragraphs of the
docstrings of ten pinned libraries, read from their source files without importing them. Library names are masked, texts
that occur in two libraries are dropped, classes are balanced, and the order is that of a hash.

The ten are libraries whose wheels hold the same docstrings for every Python from 3.11 to 3.14, for Linux, macOS and
Windows and beside any build of PyTorch, so the pinned versions give the same rows everywhere. PyTorch, NumPy and the
standard library aren't among them: theirs differ. Other versions give other rows, which is said; their fingerprint
keeps the results apart.
"""

import ast
import hashlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from src.errors import UserError
from src.files import cached
from src.tasks.base import SPLITS, TaskData
from src.tasks.source import Source


class Library(NamedTuple):
    """A class of the task: the module that holds its docstrings, the pinned version, a pattern of its names."""

    module: str
    version: str
    names: str


# By the name of the distribution; versions as in constraints.txt. Another one is other rows: a results change.
LIBRARIES = {
    "transformers": Library("transformers", "5.23.0", r"transformers?|hugging ?face"),
    "pandas": Library("pandas", "3.1.1", r"pandas|pd"),
    "scipy": Library("scipy", "1.17.1", r"scipy"),
    "scikit-learn": Library("sklearn", "1.9.1", r"sklearn|scikit-?learn"),
    "matplotlib": Library("matplotlib", "3.11.2", r"matplotlib|mpl|pyplot|plt"),
    "sympy": Library("sympy", "1.14.0", r"sympy"),
    "networkx": Library("networkx", "3.6.1", r"networkx|nx"),
    "plotly": Library("plotly", "7.1.0", r"plotly(?:\.?js)?|px"),
    "wandb": Library("wandb", "0.31.0", r"wandb|w&b|weights (?:&|and) biases"),
    "statsmodels": Library("statsmodels", "0.15.0", r"statsmodels|sm"),
}
# Of the texts that the pinned versions give, and how many the smallest class has of them.
PINNED_TEXTS, PINNED_SMALLEST = "eb07e50d09b86257", 1715
MASKED = re.compile(rf"\b(?:{'|'.join(library.names for library in LIBRARIES.values())})\b", re.IGNORECASE)
# Tests say little of a library, and the last file is in Windows' wheels alone.
SKIPPED = {"test", "tests", "__pycache__", "_distributor_init.py"}
MIN_WORDS, MAX_CHARACTERS = 4, 300
NAMED = 3  # other versions in a line; the record has them all


def load(source: Source, *, train_per_class: int, validation_per_class: int, test_per_class: int) -> TaskData:
    """Build the splits, or read them from the cache where the same packages built them before.

    Where other versions than the pinned ones have fewer texts, all splits shrink in proportion to the smallest class.

    Raises:
        UserError: a library is missing, or has too few docstrings for the sizes asked for.
    """
    texts = _cached_texts(source.cache_dir)
    asked = (train_per_class, validation_per_class, test_per_class)
    per_class = dict(zip(SPLITS, _sizes(asked, texts), strict=True))
    note = _note(texts, sum(asked), sum(per_class.values()))
    splits: dict[str, list[dict[str, object]]] = {split: [] for split in SPLITS}
    for label, library_texts in enumerate(texts.values()):
        # One iterator for all splits of a library, so that no text is in two of them.
        unused = iter(library_texts)
        for split, count in per_class.items():
            splits[split] += [{"text": next(unused), "label": label} for _ in range(count)]
    for rows in splits.values():
        # Another hash than the one that split the texts, which would put the classes one after the other.
        rows.sort(key=lambda row: _hash(f"order {row['text']}"))
    return TaskData(splits=splits, label_names=list(texts), notes=[note] if note else [])


def _sizes(asked: tuple[int, ...], texts: dict[str, list[str]]) -> tuple[int, ...]:
    """The texts a class of each split: those asked for, or what the smallest class of unpinned libraries allows."""
    library = min(texts, key=lambda name: len(texts[name]))
    total, available = sum(asked), len(texts[library])
    if total <= available:
        return asked
    reduced = tuple(count * available // total for count in asked)
    if total > PINNED_SMALLEST or 0 in reduced:
        raise UserError(
            f"task=docstrings asks for {total} texts a class; {library} has {available}.\n"
            "Lower task.options.train_per_class."
        )
    return reduced


def _note(texts: dict[str, list[str]], asked: int, taken: int) -> str:
    """One line that says which libraries aren't the pinned ones; empty where the texts are those of the pinned ones."""
    if _digest(texts) == PINNED_TEXTS:
        return ""
    pinned = {name: library.version for name, library in LIBRARIES.items()}
    others = [f"{name} {_version(name)} (pinned: {pin})" for name, pin in pinned.items() if _version(name) != pin]
    named = others[:NAMED] + ([f"{len(others) - NAMED} others"] if len(others) > NAMED else [])
    reason = ", ".join(named) or "the pinned versions, but with changed files"
    fewer = f"; {taken:,} texts a class, not {asked:,}" if taken < asked else ""
    return f"task=docstrings: other rows than the pinned ones, so results are kept apart: {reason}{fewer}"


def _digest(texts: dict[str, list[str]]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


def _cached_texts(cache_dir: Path) -> dict[str, list[str]]:
    key = hashlib.sha256(json.dumps([_versions(), Path(__file__).read_text(encoding="utf-8")]).encode()).hexdigest()[
        :12
    ]
    texts: dict[str, list[str]] = cached(cache_dir / f"docstrings-{key}.json.gz", _read_texts)
    return texts


def _read_texts() -> dict[str, list[str]]:
    print("task=docstrings: reading the docstrings of the installed libraries (once, about a minute)", flush=True)
    return distinct_texts({library: _first_paragraphs(_source_folder(library)) for library in LIBRARIES})


def distinct_texts(paragraphs_by_library: dict[str, Iterator[str]]) -> dict[str, list[str]]:
    """Keep each library's texts that no other library has, each once, in the order of their hashes."""
    texts = {
        library: {text.lower(): text for text in paragraphs} for library, paragraphs in paragraphs_by_library.items()
    }
    owners = Counter(key for library_texts in texts.values() for key in library_texts)
    return {
        library: sorted((text for key, text in library_texts.items() if owners[key] == 1), key=_hash)
        for library, library_texts in texts.items()
    }


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def clean(docstring: str) -> str | None:
    """The first paragraph on one line with library names masked; None where it is too short or too long."""
    paragraph = docstring.strip().split("\n\n")[0]
    text = MASKED.sub("<library>", " ".join(paragraph.split()))
    return text if len(text.split()) >= MIN_WORDS and len(text) <= MAX_CHARACTERS else None


def _first_paragraphs(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py"), key=Path.as_posix):
        if SKIPPED.intersection(path.relative_to(folder).parts):
            continue
        try:
            with warnings.catch_warnings(action="ignore"):  # else `python -W error` would skip files that warn
                tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                text = clean(docstring) if docstring else None
                if text:
                    yield text


def _source_folder(library: str) -> Path:
    spec = importlib.util.find_spec(LIBRARIES[library].module)
    if spec is None or spec.origin is None:
        raise UserError(f"task=docstrings needs {library}, which isn't installed.\nRun: make setup")
    return Path(spec.origin).parent


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "implementation": sys.implementation.name}
    for name, library in LIBRARIES.items():
        if importlib.util.find_spec(library.module) is not None:
            versions[name] = _version(name)
    return versions


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # a system's package without metadata
        return "unknown"
