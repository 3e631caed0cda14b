"""The trials that chose learning rates: those in the records of tuned runs, or trial runs that stand alone."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.comparison import Run, plain

LR, HEAD_LR = "lr", "trainer.head_lr"
NO_PART = ("trainer.score_test", HEAD_LR)  # settings in which a cell's trials may differ from its runs
CELL = ["task", "model", "adapter", "rank", "target"]
COLUMNS = [*CELL, "unit", "axis", "value", "validation", "state", "chosen", "at_edge"]


@dataclass(frozen=True)
class CellTrials:
    """The trials of one cell: each a mapping with value, validation (None where it wasn't finished), state, and the
    flags of a doubtful one.

    `axis` is the setting that was tried, `chosen` its value in the cell's runs, and `at_edge` says that the best value
    is the lowest or the highest of those that were tried.
    """

    cell: dict[str, Any]
    axis: str
    trials: list[dict[str, Any]]
    chosen: float | None
    at_edge: bool


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a trial with the columns `COLUMNS`; the trials of a cell stand together, in the order of their rates."""
    frame = pd.DataFrame(list(trial_rows(cell_trials(runs))), columns=COLUMNS)
    return frame.astype({"rank": "Int64", "chosen": bool, "at_edge": bool})


def cell_trials(runs: pd.DataFrame) -> list[CellTrials]:
    """The trials of each tuned cell: those in its runs' records, else trial runs at several rates."""
    smaller = runs["trained_rank"].notna() & (
        runs["trained_rank"] != runs["rank"]
    )  # ranks within one training have no trials
    trained = plain(runs[runs["settings"].notna() & ~smaller.fillna(False).astype(bool)])
    by_key = _from_records(trained)
    by_key |= {key: trials_of_cell for key, trials_of_cell in _from_trials(trained).items() if key not in by_key}
    return [by_key[key] for key in sorted(by_key)]


def trial_rows(tunings: list[CellTrials]) -> Iterator[dict[str, Any]]:
    """A row for each trial."""
    for tuning in tunings:
        for trial in tuning.trials:
            yield tuning.cell | {
                "axis": tuning.axis,
                **trial,
                "chosen": trial["value"] == tuning.chosen,
                "at_edge": tuning.at_edge,
            }


def _key(run: Run) -> str:
    """What the trials and the runs of a cell have in common, as a text to sort by."""
    settings = {key: value for key, value in run["settings"].items() if key not in NO_PART}
    if run["lr"] is not None:  # the head's rate is fixed then, and sets cells apart
        settings[HEAD_LR] = run["settings"].get(HEAD_LR, "")
    # Padded: as a text, rank 16 would sort before rank 4.
    cell = [f"{run[key] or 0:>6}" if key == "rank" else str(run[key]) for key in CELL]
    return json.dumps([*cell, run["alpha"], settings], sort_keys=True)


def _cell(run: Run) -> dict[str, Any]:
    """The cell of a run, and the unit of its validation score."""
    return {key: run[key] for key in CELL} | {"unit": run["validation_unit"] or "share"}


def _from_records(runs: list[Run]) -> dict[str, CellTrials]:
    """The trials in the records of tuned runs."""
    by_key = {}
    for run in runs:
        if run["tuning"]:
            tuning = run["tuning"]
            by_key[_key(run)] = CellTrials(
                _cell(run), tuning["axis"], tuning["trials"], tuning["chosen"], tuning["at_edge"]
            )
    return by_key


def _from_trials(runs: list[Run]) -> dict[str, CellTrials]:
    """The trials that were stored as runs; one rate alone chose nothing."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run["trial"]:
            groups[_key(run)].append(run)
    made = {key: _from_group(group) for key, group in groups.items()}
    return {key: cell for key, cell in made.items() if len({trial["value"] for trial in cell.trials}) > 1}


def _from_group(group: list[Run]) -> CellTrials:
    """The trials of one cell from its trial runs, with the best rate as the chosen one."""
    # Methods without a learning rate, such as the head alone, are tuned by the head's.
    axis = LR if group[0]["lr"] is not None else HEAD_LR
    done = [run for run in group if run["state"] == "done"]
    rates = [run["lr"] if axis == LR else float(json.loads(run["settings"].get(HEAD_LR, "0"))) for run in group]
    by_rate = {
        rate: [run for run_rate, run in zip(rates, group, strict=True) if run_rate == rate]
        for rate in sorted(set(rates))
    }
    tried = [_of_rate(rate, runs) for rate, runs in by_rate.items()]
    sign = -1 if done and done[0]["validation_higher_is_better"] is False else 1
    scored = [trial for trial in tried if trial["validation"] is not None and not trial.get("flags")]
    best = max(scored, key=lambda trial: sign * trial["validation"], default=None)
    # A rate at which training broke bounds the grid; one whose run failed for another reason says nothing.
    told = [trial["value"] for trial in tried if trial["state"] in ("done", "diverged")]
    at_edge = best is not None and best["value"] in (told[0], told[-1])
    return CellTrials(_cell((done or group)[0]), axis, tried, best["value"] if best else None, at_edge)


def _of_rate(rate: float, runs: list[Run]) -> dict[str, Any]:
    """What a rate gave: the mean where it was tried with several seeds."""
    scores = [run["validation"] for run in runs if run["state"] == "done"]
    state = "done" if scores else runs[0]["state"]
    flags = sorted({flag for run in runs for flag in run["flags"] or []})
    facts = {"value": rate, "validation": float(np.mean(scores)) if scores else None, "state": state}
    return facts | ({"flags": flags} if flags else {})
