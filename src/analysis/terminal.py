"""The table that closes a sweep in the terminal."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from src.analysis.collect import row
from src.results.store import TRACEBACK, read_record

WIDTH = 110  # where the output is no terminal


def print_runs(folders: list[Path]) -> None:
    """Print a row for each run, failures with their reasons, and where the results are."""
    table = Table(box=None, header_style="bold")
    for name in ("adapter", "rank", "target", "seed"):
        table.add_column(name, justify="left" if name in ("adapter", "target") else "right")
    for name in ("lr", "scaling", "trained, no head", "head", "validation", "test", "seconds"):
        table.add_column(name, justify="right")
    unfinished = []
    for folder in folders:
        record = read_record(folder)
        found: dict[str, object] = row(record) if record else {"adapter": folder.name, "state": "not run"}
        if found["state"] != "done":
            unfinished.append((folder, found))
            continue
        table.add_row(*map(_cell, _values(found)))
    console = Console()
    console = console if console.is_terminal else Console(width=WIDTH)
    console.print(table)
    for folder, found in unfinished:
        console.print(f"{found['state']}: {folder.name}: {found.get('reason') or 'no record'}", style="red")
        if (folder / TRACEBACK).exists():
            console.print(f"  see {folder / TRACEBACK}", soft_wrap=True)


def _values(found: dict[str, object]) -> list[object]:
    keys = ("adapter", "rank", "target", "seed", "lr", "scaling", "body_trained", "head_trained")
    scores = [f"{found[split]:.4f}" if split in found else None for split in ("validation", "test")]
    return [found[key] for key in keys] + scores + [f"{found['run_seconds']:.0f}"]


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
