"""Learning rates: what was tried for each cell on validation, what came out, and which rate was chosen.

Trials are found in the records of the runs that they chose a rate for, and as runs of their own.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.comparison import Comparison, Run, plain
from src.analysis.formats import Table
from src.analysis.texts import frame, number, scaled, several, whole, word

LR, HEAD_LR = "lr", "trainer.head_lr"
NO_PART = ("trainer.score_test", HEAD_LR)  # settings in which the trials of a cell differ from its runs


@dataclass(frozen=True)
class _Search:
    """The trials of one cell: each a mapping with value, validation (None where it wasn't finished) and state."""

    cell: dict[str, Any]
    axis: str
    trials: list[dict[str, Any]]
    chosen: float | None
    at_edge: bool


def learning_rates(runs: pd.DataFrame, found: Comparison) -> Table | None:
    """A row for each tuned cell; None where no trials are known."""
    known = plain(runs[runs["settings"].notna()])
    searches = _from_records(known)
    searches |= {key: own for key, own in _from_trials(known).items() if key not in searches}
    if not searches:
        return None
    ordered = [searches[key] for key in sorted(searches)]
    cells = pd.DataFrame([own.cell for own in ordered])
    text = frame(
        {
            **several(cells),
            "adapter": [own.cell["adapter"] for own in ordered],
            "rank": [whole(own.cell["rank"]) for own in ordered],
            "target": [word(own.cell["target"]) for own in ordered],
            "tuned": [own.axis for own in ordered],
            "trials": [", ".join(_trial(own, trial) for trial in own.trials) for own in ordered],
            "chosen": [number(own.chosen) for own in ordered],
            "at edge": ["yes" if own.at_edge else "no" for own in ordered],
        }
    )
    return Table(
        text, pd.DataFrame(list(_rows(ordered))), ["Each trial: rate: validation score; bold is the best one."]
    )


def _key(run: Run) -> str:
    """What the trials and the runs of a cell have in common."""
    settings = {key: value for key, value in run["settings"].items() if key not in NO_PART}
    if run["lr"] is not None:  # the head's rate is fixed then, and sets cells apart
        settings[HEAD_LR] = run["settings"].get(HEAD_LR, "")
    cell = [
        f"{run[key] or 0:>6}" if key == "rank" else str(run[key])
        for key in ("task", "model", "adapter", "rank", "target")
    ]
    return json.dumps([*cell, run["alpha"], settings], sort_keys=True)


def _cell(run: Run) -> dict[str, Any]:
    unit = run["validation_unit"] or "share"
    return {key: run[key] for key in ("task", "model", "adapter", "rank", "target")} | {"unit": unit}


def _from_records(runs: list[Run]) -> dict[str, _Search]:
    """The searches that runs remember."""
    found = {}
    for run in runs:
        if run["tuning"]:
            own = run["tuning"]
            found[_key(run)] = _Search(_cell(run), own["axis"], own["trials"], own["chosen"], own["at_edge"])
    return found


def _from_trials(runs: list[Run]) -> dict[str, _Search]:
    """The searches that trials of their own make up; one rate alone is none."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run["trial"]:
            groups[_key(run)].append(run)
    made = {key: _search(group) for key, group in groups.items()}
    return {key: own for key, own in made.items() if len({trial["value"] for trial in own.trials}) > 1}


def _search(group: list[Run]) -> _Search:
    axis = LR if group[0]["lr"] is not None else HEAD_LR
    done = [run for run in group if run["state"] == "done"]
    rates = [run["lr"] if axis == LR else float(json.loads(run["settings"].get(HEAD_LR, "0"))) for run in group]
    by_rate = {rate: [run for own, run in zip(rates, group, strict=True) if own == rate] for rate in sorted(set(rates))}
    trials = [_of_rate(rate, own) for rate, own in by_rate.items()]
    sign = -1 if done and done[0]["validation_higher_is_better"] is False else 1
    scored = [trial for trial in trials if trial["validation"] is not None]
    best = max(scored, key=lambda trial: sign * trial["validation"], default=None)
    at_edge = best is not None and best["value"] in (trials[0]["value"], trials[-1]["value"])
    return _Search(_cell((done or group)[0]), axis, trials, best["value"] if best else None, at_edge)


def _of_rate(rate: float, runs: list[Run]) -> dict[str, Any]:
    """What a rate gave: the mean where it was tried with several seeds."""
    scores = [run["validation"] for run in runs if run["state"] == "done"]
    state = "done" if scores else runs[0]["state"]
    return {"value": rate, "validation": float(np.mean(scores)) if scores else None, "state": state}


def _trial(own: _Search, trial: dict[str, Any]) -> str:
    score = trial["state"] if trial["validation"] is None else scaled(trial["validation"], own.cell["unit"])
    text = f"{number(trial['value'])}: {score}"
    return f"**{text}**" if trial["value"] == own.chosen else text


def _rows(searches: list[_Search]) -> Iterator[dict[str, Any]]:
    """A row for each trial."""
    for own in searches:
        for trial in own.trials:
            yield own.cell | {"axis": own.axis, **trial, "chosen": trial["value"] == own.chosen, "at_edge": own.at_edge}
