"""The table that closes a sweep in the terminal."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from src.analysis.collect import rows_of_folder
from src.results.store import RESULT, TRACEBACK

COLUMNS = ("adapter", "rank", "target", "seed", "lr", "scaling", "params", "val", "test", "s")
WIDTH = 100  # where the output is no terminal
MARK = "*"  # of a doubtful score


def print_runs(folders: list[Path]) -> None:
    """Print a row for each finished run, each other run with its reason, what is doubtful, and where they all are."""
    # The last row of a folder is the run's own, after those of smaller ranks.
    rows = {folder: rows_of_folder(folder)[-1] if folder.exists() else {"state": "not run"} for folder in folders}
    done = [row for row in rows.values() if row["state"] == "done"]
    # A bracket in a message is no markup, and ":x:" no picture.
    options: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}
    console = Console(**options)
    # Without a terminal Rich takes 80 columns, which would cut the table.
    console = console if console.is_terminal else Console(width=WIDTH, **options)
    if done:
        console.print(_table(done))
        # Heads differ with the task's number of labels.
        heads = " or ".join(f"{head:,}" for head in sorted({row["head_trained"] for row in done}))
        console.print(f"{_metrics(done)}; params: trained, without the head's {heads}; s: seconds")
        doubts = Counter(flag for row in done for flag in row["flags"])
        if doubts:
            shown = ", ".join(f"{flag} ({number} of {len(done)} runs)" for flag, number in sorted(doubts.items()))
            console.print(f"{MARK} doubtful: {shown}; `warnings` in {RESULT} says more", style="yellow")
    for folder, row in rows.items():
        if row["state"] != "done":
            reason = str(row.get("reason") or "no record").removeprefix(f"{folder.name}: ")
            console.print(f"{row['state']}: {folder.name}: {reason}", style="red")
            if (folder / TRACEBACK).exists():
                console.print(f"  see {folder / TRACEBACK}", soft_wrap=True)
    if folders:
        console.print(f"runs: {os.path.commonpath([folder.parent for folder in folders])}", soft_wrap=True)


def _metrics(done: list[dict[str, Any]]) -> str:
    """What the scores are."""
    of_validation, of_test = (
        " or ".join(sorted({row[key] for row in done})) for key in ("validation_metric", "metric")
    )
    return f"val, test: {of_test}" if of_validation == of_test else f"val: {of_validation}; test: {of_test}"


def _table(done: list[dict[str, Any]]) -> Table:
    """The finished runs, with columns for task and model only where these vary."""
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    several = [key for key in ("task", "model") if len({row[key] for row in done}) > 1]
    marked = any(row["flags"] for row in done)
    for name in (*several, *COLUMNS):
        left = name in (*several, "adapter", "target")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in done:
        keys = (*several, "adapter", "rank", "target", "seed", "lr", "scaling", "body_trained")
        scores = [f"{row[split]:.4f}" if split in row else None for split in ("validation", "test")]
        if marked:  # in line with the others
            scores = [score and score + (MARK if row["flags"] else " ") for score in scores]
        table.add_row(*map(_cell, [*(row[key] for key in keys), *scores, f"{row['run_seconds']:.0f}"]))
    return table


def _cell(value: object) -> str:
    """A value as a text: counts with separators, numbers as short as they can be."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
