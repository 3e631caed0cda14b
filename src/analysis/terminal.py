"""The table that closes a sweep in the terminal."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from src.analysis.collect import rows_of_folder
from src.analysis.texts import DIRECTIONS, METRICS, WAYS
from src.console import columns
from src.results.store import RESULT, TRACEBACK

WIDEST = 10_000  # characters of a table that nothing limits
COLUMNS = ("adapter", "rank", "target", "seed", "lr", "scaling", "params", "val", "test", "s")
MARK = "*"  # of a doubtful score
# Left out in a narrow terminal, the first ones first, and those that are equal in all rows before all others.
SPARED = ("s", "scaling", "lr", "val", "seed", "target", "rank")


def print_runs(folders: list[Path], unrecorded: Mapping[str, str] | None = None) -> None:
    """Print a row for each finished run, each other run with its reason, what is doubtful, and where they all are.

    Args:
        unrecorded: by the folder, why a run left no record.
    """
    rows = {folder: _row(folder, unrecorded or {}) for folder in folders}
    done = [row for row in rows.values() if row["state"] == "done"]
    # As wide as it takes: Rich would cut numbers. A bracket in a name is no markup, and ":x:" no picture.
    console = Console(highlight=False, markup=False, emoji=False, width=WIDEST)
    if done:
        table, left_out = _table(done, columns())
        console.print(table, crop=False)
        # Heads differ with the task's number of labels.
        heads = " or ".join(f"{head:,}" for head in sorted({row["head_trained"] for row in done}))
        print(f"{_metrics(done)}\nparams: trained, without the head's {heads}; s: seconds")
        doubts = Counter(flag for row in done for flag in row["flags"])
        if doubts:
            shown = ", ".join(f"{flag} ({number} of {len(done)} runs)" for flag, number in sorted(doubts.items()))
            console.print(f"{MARK} doubtful: {shown}; `warnings` in {RESULT} says more", style="yellow")
        if left_out:
            print(f"left out for want of width: {', '.join(left_out)}; python -m src.tables has all")
    for folder, row in rows.items():
        if row["state"] != "done":
            reason = str(row.get("reason") or "no record").removeprefix(f"{folder.name}: ")
            console.print(f"{row['state']}: {folder.name}: {reason}", style="red")
            if (folder / TRACEBACK).exists():
                print(f"  see {folder / TRACEBACK}")
    if folders:
        print(f"runs: {os.path.commonpath([folder.parent for folder in folders])}")


def _row(folder: Path, unrecorded: Mapping[str, str]) -> dict[str, Any]:
    """A run's values, or why there are none."""
    if str(folder) in unrecorded:
        return {"state": "failed", "reason": unrecorded[str(folder)]}
    # The last row of a folder is the run's own, after those of smaller ranks.
    return rows_of_folder(folder)[-1] if folder.exists() else {"state": "not run"}


def _metrics(done: list[dict[str, Any]]) -> str:
    """What the scores are, and which way they are better."""
    of_validation, of_test = (
        " or ".join(sorted({f"{row[METRICS[split]]}, {WAYS[row[DIRECTIONS[split]]]} is better" for row in done}))
        for split in ("validation", "test")
    )
    return f"val, test: {of_test}" if of_validation == of_test else f"val: {of_validation}; test: {of_test}"


def _table(done: list[dict[str, Any]], width: int | None) -> tuple[Table, list[str]]:
    """The finished runs in so many characters a line, and the names of the columns that there is no room for.

    There are columns for task and model only where these vary.
    """
    several = [key for key in ("task", "model") if len({row[key] for row in done}) > 1]
    marked = any(row["flags"] for row in done)
    keys = (*several, "adapter", "rank", "target", "seed", "lr", "scaling", "body_trained")
    cells: dict[str, list[str]] = {name: [] for name in (*several, *COLUMNS)}
    for row in done:
        scores = [f"{row[split]:.4f}" if split in row else None for split in ("validation", "test")]
        if marked:  # in line with the others
            scores = [score and score + (MARK if row["flags"] else " ") for score in scores]
        values = [*(row[key] for key in keys), *scores, f"{row['run_seconds']:.0f}"]
        for column, value in zip(cells.values(), values, strict=True):
            column.append(_cell(value))
    left_out = _left_out(cells, width)
    table = Table(box=None, header_style="bold", padding=(0, 1, 0, 0))
    for name in (name for name in cells if name not in left_out):
        left = name in (*several, "adapter", "target")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for texts in zip(*(cells[name] for name in cells if name not in left_out), strict=True):
        table.add_row(*texts)
    return table, left_out


def _left_out(cells: dict[str, list[str]], width: int | None) -> list[str]:
    """The columns without which the others fit, as far as any may be left out."""
    widths = {name: 1 + max(map(cell_len, [name, *texts])) for name, texts in cells.items()}
    alike = [name for name in SPARED if len(set(cells[name])) == 1 and len(cells[name]) > 1]
    left_out: list[str] = []
    for name in [*alike, *(name for name in SPARED if name not in alike)]:
        if width is None or sum(widths.values()) <= width:
            break
        del widths[name]
        left_out.append(name)
    return left_out


def _cell(value: object) -> str:
    """A value as a text: counts with separators, numbers as short as they can be."""
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
