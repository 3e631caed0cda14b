"""Which library does this docstring come from?

Ten classes of real English text that is on every machine able to run this project: the first paragraphs of the
docstrings of nine pinned packages and of the standard library, read from their source files without importing
them. Library names are masked, texts that occur in two libraries are dropped, classes are balanced, and the
order is that of a hash, so the same packages give the same rows everywhere.
"""

import ast
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from src.errors import UserError
from src.tasks.base import SPLITS, TaskData
from src.tasks.source import Source

# label: (module, distribution); the standard library has neither.
LIBRARIES = {
    "torch": ("torch", "torch"),
    "transformers": ("transformers", "transformers"),
    "pandas": ("pandas", "pandas"),
    "numpy": ("numpy", "numpy"),
    "scipy": ("scipy", "scipy"),
    "scikit-learn": ("sklearn", "scikit-learn"),
    "matplotlib": ("matplotlib", "matplotlib"),
    "sympy": ("sympy", "sympy"),
    "networkx": ("networkx", "networkx"),
    "python": None,
}
MASKED = re.compile(
    r"\b(py)?torch\b|\btransformers?\b|\bhugging ?face\b|\bpandas\b|\bpd\b|\bnumpy\b|\bnp\b|\bscipy\b|\bsklearn\b"
    r"|\bscikit-?learn\b|\bmatplotlib\b|\bmpl\b|\bpyplot\b|\bplt\b|\bsympy\b|\bnetworkx\b|\bnx\b|\bc?python\b",
    re.IGNORECASE,
)
SKIPPED_FOLDERS = {"test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"}
MIN_WORDS, MAX_CHARACTERS = 4, 300


def load(source: Source, *, train_per_class: int, validation_per_class: int, test_per_class: int) -> TaskData:
    """Build the splits, or read them from the cache where the same packages built them before.

    Raises:
        UserError: a library is missing, or has too few docstrings for the sizes asked for.
    """
    per_class = dict(zip(SPLITS, (train_per_class, validation_per_class, test_per_class), strict=True))
    texts = _cached_texts(source.cache_dir)
    splits: dict[str, list[dict[str, object]]] = {split: [] for split in SPLITS}
    for label, (library, own) in enumerate(texts.items()):
        if len(own) < sum(per_class.values()):
            raise UserError(
                f"task=docstrings asks for {sum(per_class.values())} texts a class; {library} has {len(own)}.\n"
                "Lower task.options.train_per_class."
            )
        unused = iter(own)
        for split, count in per_class.items():
            splits[split] += [{"text": next(unused), "label": label} for _ in range(count)]
    for rows in splits.values():
        # Another hash than the one that split the texts, which would put the classes one after the other.
        rows.sort(key=lambda row: _hash(f"order {row['text']}"))
    return TaskData(splits=splits, label_names=list(texts))


def _cached_texts(cache_dir: Path) -> dict[str, list[str]]:
    key = hashlib.sha256(json.dumps([_versions(), Path(__file__).read_text()]).encode()).hexdigest()[:12]
    cached = cache_dir / f"docstrings-{key}.json.gz"
    if cached.exists():
        with gzip.open(cached, "rt", encoding="utf-8") as file:
            texts: dict[str, list[str]] = json.load(file)
        return texts
    print("task=docstrings: reading the docstrings of the installed libraries (once, about a minute)", flush=True)
    texts = distinct_texts({library: _first_paragraphs(_source_folder(library)) for library in LIBRARIES})
    cache_dir.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(f".{os.getpid()}")
    with gzip.open(partial, "wt", encoding="utf-8") as file:
        json.dump(texts, file)
    partial.rename(cached)
    return texts


def distinct_texts(found: dict[str, Iterator[str]]) -> dict[str, list[str]]:
    """Keep each library's texts that no other library has, each once, in the order of their hashes."""
    texts = {library: {text.lower(): text for text in paragraphs} for library, paragraphs in found.items()}
    owners = Counter(key for own in texts.values() for key in own)
    return {
        library: sorted((text for key, text in own.items() if owners[key] == 1), key=_hash)
        for library, own in texts.items()
    }


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def clean(docstring: str) -> str | None:
    """The first paragraph on one line with library names masked; None where it is too short or too long."""
    paragraph = docstring.strip().split("\n\n")[0]
    text = MASKED.sub("<library>", " ".join(paragraph.split()))
    return text if len(text.split()) >= MIN_WORDS and len(text) <= MAX_CHARACTERS else None


def _first_paragraphs(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.py")):
        if SKIPPED_FOLDERS.intersection(path.relative_to(folder).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and files of another Python version
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = ast.get_docstring(node)
                text = clean(docstring) if docstring else None
                if text:
                    yield text


def _source_folder(library: str) -> Path:
    names = LIBRARIES[library]
    if names is None:
        return Path(sysconfig.get_path("stdlib"))
    spec = importlib.util.find_spec(names[0])
    if spec is None or spec.origin is None:
        raise UserError(f"task=docstrings needs {library}, which isn't installed.\nRun: make setup")
    return Path(spec.origin).parent


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "implementation": sys.implementation.name}
    for library, names in LIBRARIES.items():
        if names is not None and importlib.util.find_spec(names[0]) is not None:
            versions[library] = importlib.metadata.version(names[1])
    return versions
