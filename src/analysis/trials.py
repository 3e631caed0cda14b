"""The trials that chose learning rates: those that tuned runs remember, or trial runs of their own."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.comparison import Run, plain

LR, HEAD_LR = "lr", "trainer.head_lr"
NO_PART = ("trainer.score_test", HEAD_LR)  # settings in which the trials of a cell differ from its runs
CELL = ["task", "model", "adapter", "rank", "target"]
COLUMNS = [*CELL, "unit", "axis", "value", "validation", "state", "chosen", "at_edge"]


@dataclass(frozen=True)
class Search:
    """The trials of one cell: each a mapping with value, validation (None where it wasn't finished) and state."""

    cell: dict[str, Any]
    axis: str
    trials: list[dict[str, Any]]
    chosen: float | None
    at_edge: bool


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a trial, each search in the order of its rates."""
    frame = pd.DataFrame(list(rows(searches(runs))), columns=COLUMNS)
    return frame.astype({"rank": "Int64", "chosen": bool, "at_edge": bool})


def searches(runs: pd.DataFrame) -> list[Search]:
    """The search of each tuned cell: the one that its runs remember, else what trial runs of several rates make up."""
    smaller = runs["trained_rank"].notna() & (runs["trained_rank"] != runs["rank"])  # not trained by themselves
    known = plain(runs[runs["settings"].notna() & ~smaller.fillna(False).astype(bool)])
    found = _from_records(known)
    found |= {key: own for key, own in _from_trials(known).items() if key not in found}
    return [found[key] for key in sorted(found)]


def rows(found: list[Search]) -> Iterator[dict[str, Any]]:
    """A row for each trial."""
    for own in found:
        for trial in own.trials:
            yield own.cell | {"axis": own.axis, **trial, "chosen": trial["value"] == own.chosen, "at_edge": own.at_edge}


def _key(run: Run) -> str:
    """What the trials and the runs of a cell have in common."""
    settings = {key: value for key, value in run["settings"].items() if key not in NO_PART}
    if run["lr"] is not None:  # the head's rate is fixed then, and sets cells apart
        settings[HEAD_LR] = run["settings"].get(HEAD_LR, "")
    cell = [f"{run[key] or 0:>6}" if key == "rank" else str(run[key]) for key in CELL]
    return json.dumps([*cell, run["alpha"], settings], sort_keys=True)


def _cell(run: Run) -> dict[str, Any]:
    return {key: run[key] for key in CELL} | {"unit": run["validation_unit"] or "share"}


def _from_records(runs: list[Run]) -> dict[str, Search]:
    """The searches that runs remember."""
    found = {}
    for run in runs:
        if run["tuning"]:
            own = run["tuning"]
            found[_key(run)] = Search(_cell(run), own["axis"], own["trials"], own["chosen"], own["at_edge"])
    return found


def _from_trials(runs: list[Run]) -> dict[str, Search]:
    """The searches that trials of their own make up; one rate alone is none."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run["trial"]:
            groups[_key(run)].append(run)
    made = {key: _search(group) for key, group in groups.items()}
    return {key: own for key, own in made.items() if len({trial["value"] for trial in own.trials}) > 1}


def _search(group: list[Run]) -> Search:
    axis = LR if group[0]["lr"] is not None else HEAD_LR
    done = [run for run in group if run["state"] == "done"]
    rates = [run["lr"] if axis == LR else float(json.loads(run["settings"].get(HEAD_LR, "0"))) for run in group]
    by_rate = {rate: [run for own, run in zip(rates, group, strict=True) if own == rate] for rate in sorted(set(rates))}
    found = [_of_rate(rate, own) for rate, own in by_rate.items()]
    sign = -1 if done and done[0]["validation_higher_is_better"] is False else 1
    scored = [trial for trial in found if trial["validation"] is not None]
    best = max(scored, key=lambda trial: sign * trial["validation"], default=None)
    at_edge = best is not None and best["value"] in (found[0]["value"], found[-1]["value"])
    return Search(_cell((done or group)[0]), axis, found, best["value"] if best else None, at_edge)


def _of_rate(rate: float, runs: list[Run]) -> dict[str, Any]:
    """What a rate gave: the mean where it was tried with several seeds."""
    scores = [run["validation"] for run in runs if run["state"] == "done"]
    state = "done" if scores else runs[0]["state"]
    return {"value": rate, "validation": float(np.mean(scores)) if scores else None, "state": state}
