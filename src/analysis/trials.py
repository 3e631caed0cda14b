"""The trials that chose learning rates: those in the records of tuned runs, or trial runs that stand alone."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.analysis.comparison import Run, plain
from src.analysis.tuned import SOUND, by_rate, outcome_of_rate

LR, HEAD_LR = "lr", "trainer.head_lr"
NO_PART = ("trainer.score_test", HEAD_LR)  # settings in which a cell's trials may differ from its runs
CELL = ["task", "model", "adapter", "rank", "target"]
COLUMNS = [*CELL, "unit", "axis", "value", "seed", "validation", "state", "chosen", "at_edge", "why"]


@dataclass(frozen=True)
class CellTrials:
    """The trials of one cell: each a mapping with value, seed, validation (None where it wasn't finished), state, and
    the flags of a doubtful one.

    `axis` is the setting that was tried, `chosen` its value in the cell's runs and `why` the reason in words, empty
    where none is stored. `at_edge` says that the best value is the lowest or the highest of those that were tried.
    `regret` is what a better one among them would add to the score, as expected; None where it isn't known.
    """

    cell: dict[str, Any]
    axis: str
    trials: list[dict[str, Any]]
    chosen: float | None
    at_edge: bool
    why: str = ""
    regret: float | None = None

    def mean(self, value: float) -> float | None:
        """The mean over the seeds of a rate's finished trials; None where there are none."""
        return _mean(by_rate(self.trials)[value])


def _mean(trials: Sequence[Mapping[str, Any]]) -> float | None:
    scores = [trial["validation"] for trial in trials if trial["validation"] is not None]
    return float(np.mean(scores)) if scores else None


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a trial with the columns `COLUMNS`; the trials of a cell stand together, in the order of their rates."""
    frame = pd.DataFrame(list(trial_rows(cell_trials(runs))), columns=COLUMNS)
    return frame.astype({"rank": "Int64", "seed": "Int64", "chosen": bool, "at_edge": bool})


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
                "why": tuning.why,
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
    by_key: dict[str, CellTrials] = {}
    for run in runs:
        key, tuned = _key(run) if run["tuning"] else "", _of_record(run)
        # A cell that was tuned again has runs of both times: the longer search is shown.
        if tuned and (key not in by_key or len(tuned.trials) >= len(by_key[key].trials)):
            by_key[key] = tuned
    return by_key


def _of_record(run: Run) -> CellTrials | None:
    """The trials in a run's record, where it has any; older ones name their seed once for all."""
    tuning = run["tuning"]
    if not tuning:
        return None
    trials = [{"seed": tuning.get("seed")} | trial for trial in tuning["trials"]]
    regret = (tuning.get("noise") or {}).get("regret")
    return CellTrials(
        _cell(run), tuning["axis"], trials, tuning["chosen"], tuning["at_edge"], tuning.get("why", ""), regret
    )


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
    tried = sorted((_trial(run, axis) for run in group), key=lambda trial: (trial["value"], trial["seed"]))
    sign = -1 if done and done[0]["validation_higher_is_better"] is False else 1
    rates = by_rate(tried)
    means = {value: _mean(runs) for value, runs in rates.items() if outcome_of_rate(runs) == SOUND}
    best = max(means, key=lambda value: sign * (means[value] or 0.0), default=None)
    # A rate at which training broke bounds the grid; one whose run failed for another reason says nothing.
    told = [value for value, runs in rates.items() if any(run["state"] in ("done", "diverged") for run in runs)]
    at_edge = best is not None and best in (told[0], told[-1])
    return CellTrials(_cell((done or group)[0]), axis, tried, best, at_edge)


def _trial(run: Run, axis: str) -> dict[str, Any]:
    """A trial run as the records of tuned runs have it."""
    value = run["lr"] if axis == LR else float(json.loads(run["settings"].get(HEAD_LR, "0")))
    score = run["validation"] if run["state"] == "done" else None
    facts = {"value": value, "seed": run["seed"], "validation": score, "state": run["state"]}
    return facts | ({"flags": sorted(run["flags"])} if run["flags"] else {})
