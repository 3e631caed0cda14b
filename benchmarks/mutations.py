"""Does a changed token of the code ever leave an older result reused, averaged or skipped without a word?

    python -m benchmarks.mutations     # six minutes; writes benchmarks/mutations.json, status 1 if a result was reused

A copy of the code makes one short run. Then, for each of 20 seeded mutations, one token of the method's, loader's,
metric's or training's code is changed, and the run and another seed of it are asked for. Right is that the code doesn't
run any more and says so, or that both runs are made anew and no row of the table holds two codes. Then come 5 changes
of comments, docstrings and formatting, after which the run must be found done.
"""

import io
import json
import keyword
import random
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from src.files import write_json
from src.results.store import read_all

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_suffix(".json")
SEED, MUTATIONS = 0, 20
RIGHT = ("anew", "refused", "valid")
FILES = {
    "method": ["src/adapters/lora.py", "src/adapters/base.py"],
    "loader": ["src/tasks/reverse_words.py"],
    "metric": ["src/metrics/exact_match/exact_match.py", "src/metrics/base.py"],
    "training": ["src/training/trainer.py", "src/training/scoring.py", "src/training/batches.py",
                 "src/running/fitting.py", "src/models/base_model.py"],
}  # fmt: skip
RUN = ["adapter=lora", "rank=2", "model=tiny_llama", "task=reverse_words", "trainer=smoke", "tracking=none",
       "forgetting=none", "results_dir=results", "cache_dir=cache"]  # fmt: skip
OPERATORS = {"+": "-", "-": "+", "*": "/", "/": "*", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=",
             "!=": "==", "**": "*", "//": "*", "%": "*", "|": "&"}  # fmt: skip
WORDS = {"True": "False", "False": "True", "and": "or", "or": "and", "None": "0", "min": "max", "max": "min",
         "any": "all", "all": "any", "sum": "len", "sorted": "list"}  # fmt: skip
UNCHANGED = {
    "a comment": ("src/adapters/lora.py", "class LoRA", "# Two small matrices.\nclass LoRA"),
    "a docstring": ("src/training/trainer.py", '"""', '"""In other words: '),
    "blank lines": ("src/training/batches.py", "\n\n\ndef ", "\n\n\n\n\ndef "),
    "a line broken": ("src/training/scoring.py", "(", "(\n"),
    "a loader's docstring": ("src/tasks/reverse_words.py", '"""', '"""Another text. '),
}


def mutants(path: Path, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Endless drawn mutations of a file: what was changed, and the file's new text."""
    text = path.read_text(encoding="utf-8")
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(text).readline) if _changed(token)]
    lines = text.splitlines(keepends=True)
    while True:
        token = draw.choice(tokens)
        (row, start), (_, end) = token.start, token.end
        line = lines[row - 1]
        new = "".join([*lines[: row - 1], line[:start] + _changed(token) + line[end:], *lines[row:]])
        yield f"{path.name}:{row} {token.string} -> {_changed(token)}", new


def _changed(token: tokenize.TokenInfo) -> str:
    """Another token in its place; empty where there is none to put there."""
    if token.type == tokenize.NUMBER:
        return f"{token.string}1"
    if token.type == tokenize.OP:
        return OPERATORS.get(token.string, "")
    if token.type == tokenize.NAME and (token.string in WORDS or not keyword.iskeyword(token.string)):
        return WORDS.get(token.string, "")
    return ""


@contextmanager
def copy_of_the_code() -> Iterator[Path]:
    """A folder with the code and its configuration alone, without results."""
    with tempfile.TemporaryDirectory() as scratch:
        for folder in ("src", "conf"):
            shutil.copytree(ROOT / folder, Path(scratch, folder), ignore=shutil.ignore_patterns("__pycache__"))
        yield Path(scratch)


def asked(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run `src.run` in a folder."""
    command = [sys.executable, "-B", "-m", "src.run", *RUN, *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def outcome(folder: Path) -> str:
    """What became of the stored run under the changed code: "anew", "refused", or what went wrong without a word."""
    first, second = asked(folder), asked(folder, "seed=1")
    if "done already" in first.stdout:
        return "REUSED"
    if first.returncode or second.returncode:
        return "refused" if first.stderr + first.stdout + second.stderr else "SILENT"
    table = [sys.executable, "-B", "-m", "src.tables", "results_dir=results", "table=comparison"]
    subprocess.run(table, cwd=folder, capture_output=True, text=True, check=True)
    (path,) = folder.rglob("comparison.csv")
    seeds = sorted(pd.read_csv(path)["n"])
    return "anew" if seeds == [1, 2] else f"AVERAGED {seeds}"


def mutated(folder: Path, draw: random.Random) -> dict[str, str]:
    """Change one token, ask for the run, and put everything back."""
    part = draw.choice(sorted(FILES))
    path = folder / draw.choice(FILES[part])
    before = path.read_text(encoding="utf-8")
    shutil.copytree(folder / "results", folder / "kept")
    change, text = next(mutants(path, draw))
    path.write_text(text, encoding="utf-8")
    result = {"part": part, "change": change, "outcome": outcome(folder)}
    path.write_text(before, encoding="utf-8")
    shutil.rmtree(folder / "results")
    (folder / "kept").rename(folder / "results")
    return result


def main() -> None:
    """Make all mutations, print and write what became of the stored run."""
    draw, rows = random.Random(SEED), []
    with copy_of_the_code() as folder:
        first = asked(folder)
        if first.returncode:
            sys.exit(first.stdout + first.stderr)
        for _ in range(MUTATIONS):
            rows.append(mutated(folder, draw))
            print(json.dumps(rows[-1]), flush=True)
        for name, (file, old, new) in UNCHANGED.items():
            path = folder / file
            path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
            done = "done already" in asked(folder).stdout
            rows.append({"part": "no code", "change": name, "outcome": "valid" if done else "LOST"})
            print(json.dumps(rows[-1]), flush=True)
        assert len(read_all(folder / "results")) == 1
    write_json(RESULTS, {"seed": SEED, "mutations": rows})
    sys.exit(any(row["outcome"] not in RIGHT for row in rows))


if __name__ == "__main__":
    main()
