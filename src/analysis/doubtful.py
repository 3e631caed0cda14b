"""Runs whose score is doubtful, as `src.running.flags` found: they stay in every table, and every table says so."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pandas as pd

DOUBTFUL = "doubtful: "  # how the note of such a cell begins
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
        f"{cell.adapter}{'' if pd.isna(cell.rank) else f' r {cell.rank}'} {cell.target or ''}".strip()
        + f" ({next(note for note in cell.notes.split('; ') if note.startswith(DOUBTFUL)).removeprefix(DOUBTFUL)})"
        for cell in cells.itertuples()
        if is_doubtful(cell)
    ]
    return [f"{MARK} Doubtful scores: {', '.join(shown)}."] if shown else []
