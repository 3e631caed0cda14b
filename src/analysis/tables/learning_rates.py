"""Learning rates: what was tried for each cell on validation, what came out, and which rate was chosen."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.doubtful import MARK
from src.analysis.formats import Table
from src.analysis.texts import frame, heading, number, score_text, several, whole, word
from src.analysis.trials import CellTrials, cell_trials, trial_rows
from src.analysis.tuned import by_rate


def learning_rates(runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """A row for each tuned cell; None where no trials are stored.

    The values have a row for each trial, with the columns of `src.analysis.trials.trial_rows`.
    """
    tuned = cell_trials(runs)
    if not tuned:
        return None
    text = frame(
        {
            **several(pd.DataFrame([tuning.cell for tuning in tuned])),
            "adapter": [tuning.cell["adapter"] for tuning in tuned],
            "rank": [whole(tuning.cell["rank"]) for tuning in tuned],
            "target": [word(tuning.cell["target"]) for tuning in tuned],
            "tuned": [tuning.axis for tuning in tuned],
            "trials": [", ".join(_rates(tuning)) for tuning in tuned],
            "chosen": [number(tuning.chosen) for tuning in tuned],
            "at edge": ["yes" if tuning.at_edge else "no" for tuning in tuned],
            **_reasons(tuned),
        }
    )
    of = heading(runs[runs["trial"] & runs["validation"].notna()], "validation")
    notes = [f"Each trial: rate: {of}, one a seed; bold is the chosen one."]
    if any(trial.get("flags") for tuning in tuned for trial in tuning.trials):
        notes.append(f"{MARK} Doubtful, and never chosen: constant predictions, at chance, or a loss that rose.")
    if "tuning regret" in text:
        notes.append("Tuning regret: how much better another tried rate is expected to be.")
    return Table(text, pd.DataFrame(list(trial_rows(tuned))), notes)


def _reasons(tuned: list[CellTrials]) -> dict[str, list[str]]:
    """Columns that say why each rate was chosen and what choosing leaves, where that is stored."""
    columns = {}
    if any(tuning.why for tuning in tuned):
        columns["why"] = [word(tuning.why) for tuning in tuned]
    if any(tuning.regret is not None for tuning in tuned):
        columns["tuning regret"] = [
            "-" if tuning.regret is None else score_text(tuning.regret, tuning.cell["unit"]) for tuning in tuned
        ]
    return columns


def _rates(tuning: CellTrials) -> list[str]:
    """For each rate its scores, or what became of it; bold where it was chosen."""
    texts = []
    for value, trials in by_rate(tuning.trials).items():
        text = f"{number(value)}: {' / '.join(_score(tuning, trial) for trial in trials)}"
        texts.append(f"**{text}**" if value == tuning.chosen else text)
    return texts


def _score(tuning: CellTrials, trial: Mapping[str, Any]) -> str:
    """A trial's score, or what became of it, marked where it is doubtful."""
    score = trial["state"] if trial["validation"] is None else score_text(trial["validation"], tuning.cell["unit"])
    return score + (f" {MARK}" if trial.get("flags") else "")
