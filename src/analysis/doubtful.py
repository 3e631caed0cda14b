"""Runs whose score is doubtful, as `src.running.flags` found: they stay in every table, and every table says so."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

DOUBTFUL = "doubtful: "  # how the note of such a cell begins
CONSTANT = "constant predictions"  # what is seen of older records too
MARK = "§"  # marks its scores


def doubts(runs: Iterable[dict[str, Any]]) -> list[str]:
    """The note on a cell's finished runs, such as "doubtful: at chance in 2 of 3 runs", where there is any doubt."""
    runs = list(runs)
    counts = Counter(flag for run in runs for flag in run["flags"] or [])
    shown = [f"{flag} in {number} of {len(runs)} runs" for flag, number in sorted(counts.items())]
    return [DOUBTFUL + " and ".join(shown)] if shown else []


def is_doubtful(cell: Any) -> bool:
    """Say whether a row of the comparison has such a note."""
    return DOUBTFUL in str(cell.notes)


def doubtful_rows(cells: pd.DataFrame) -> list[str]:
    """One note that names all such rows; none where there are none."""
    shown = [
        f"{_name(cell)} ({next(note for note in cell.notes.split('; ') if note.startswith(DOUBTFUL))[len(DOUBTFUL) :]})"
        for cell in cells.itertuples()
        if is_doubtful(cell)
    ]
    return [f"{MARK} Doubtful scores: {', '.join(shown)}. docs/statistics.md says when."] if shown else []


def _name(cell: Any) -> str:
    """A row in words, as in "lora r 8 qv lr 0.003"."""
    parts = {"": cell.adapter, "r ": cell.rank, " ": cell.target, "lr ": cell.lr}
    texts = [f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}" for name, value in parts.items()
             if not pd.isna(value)]  # fmt: skip
    return " ".join(text.strip() for text in texts)
