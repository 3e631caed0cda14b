"""Where each run of a results folder stands: by its record, its claim, and what it left on its way."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from src.errors import UserError, first_line
from src.files import read_json, replacing
from src.results.store import CHECKPOINT, PROGRESS, is_held, read_record, run_folders

SWEEP_PLANS = "sweeps/*/plan.json"
# In the order in which they are told.
STANDINGS = (
    "running", "waiting", "cut off", "interrupted", "failed", "out_of_memory", "diverged", "unreadable", "done",
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """A run's state: one of `STANDINGS`, why, the step it is at, and the seconds that it took or will still take."""

    folder: Path
    state: str
    reason: str = ""
    step: int = 0
    max_steps: int = 0
    seconds: float | None = None


def note_progress(folder: Path, step: int, max_steps: int, seconds_left: float | None) -> None:
    """Leave in a run's folder how far it is."""
    content = {"step": step, "max_steps": max_steps, "seconds_left": seconds_left, "now": time.time()}
    with suppress(OSError), replacing(folder / PROGRESS, durable=False) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def standings(results_dir: Path) -> list[Standing]:
    """All runs of a folder, those of its sweeps' plans that weren't begun among them, in the order of `STANDINGS`."""
    found = [_standing(folder) for folder in run_folders(results_dir)]
    begun = {one.folder.absolute() for one in found}
    waiting = [Standing(folder, "waiting") for folder in sorted(set(_planned(results_dir)) - begun)]
    return sorted([*found, *waiting], key=lambda one: (STANDINGS.index(one.state), one.folder))


def _planned(results_dir: Path) -> Iterator[Path]:
    """The folders of the runs that sweeps have planned, those below `results_dir` alone."""
    below = Path(os.path.abspath(results_dir / "runs"))
    for plan in sorted(results_dir.glob(SWEEP_PLANS)):
        with suppress(OSError, ValueError, KeyError, TypeError):
            paths = [Path(os.path.abspath(name)) for name in read_json(plan)["folders"]]
            yield from (path for path in paths if path.is_relative_to(below))


def _standing(folder: Path) -> Standing:
    if is_held(folder):
        return _under_way(folder, "running")
    try:
        record = read_record(folder)
    except UserError as error:
        return Standing(folder, "unreadable", first_line(error))
    if record is None:
        return _under_way(folder, "cut off")
    if record["state"] == "done":
        return Standing(folder, "done", seconds=record["time"]["run_seconds"])
    reason = record["error"]["message"].splitlines()[0] if record["error"] else ""
    return Standing(folder, record["state"], _from_checkpoint(folder) or reason)


def _under_way(folder: Path, state: str) -> Standing:
    """A run without a record, as far as it says."""
    reason = "" if state == "running" else _from_checkpoint(folder) or "starts over"
    try:
        said = read_json(folder / PROGRESS)
        left = said["seconds_left"]
        left = None if left is None else max(0.0, left - (time.time() - said["now"]))
        return Standing(folder, state, reason, said["step"], said["max_steps"], left)
    except (OSError, ValueError, KeyError, TypeError):
        return Standing(folder, state, reason)


def _from_checkpoint(folder: Path) -> str:
    """Where the next attempt goes on; empty where it starts over."""
    try:
        with safe_open(folder / CHECKPOINT, framework="pt") as file:
            return f"goes on after step {json.loads(file.metadata()['values'])['step']}"
    except (OSError, SafetensorError, ValueError, KeyError, TypeError):
        return ""
