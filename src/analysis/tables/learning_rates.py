"""Learning rates: what was tried for each cell on validation, what came out, and which rate was chosen."""

from typing import Any

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.doubtful import MARK
from src.analysis.formats import Table
from src.analysis.texts import frame, number, score_text, several, whole, word
from src.analysis.trials import CellTrials, cell_trials, trial_rows


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
            "trials": [", ".join(_trial(tuning, trial) for trial in tuning.trials) for tuning in tuned],
            "chosen": [number(tuning.chosen) for tuning in tuned],
            "at edge": ["yes" if tuning.at_edge else "no" for tuning in tuned],
        }
    )
    notes = ["Each trial: rate: validation score; bold is the best one."]
    if any(trial.get("flags") for tuning in tuned for trial in tuning.trials):
        notes.append(f"{MARK} Doubtful, and never chosen: constant predictions, at chance, or a loss that rose.")
    return Table(text, pd.DataFrame(list(trial_rows(tuned))), notes)


def _trial(tuning: CellTrials, trial: dict[str, Any]) -> str:
    """A trial's rate and score, or what became of it; bold where its rate was chosen."""
    score = trial["state"] if trial["validation"] is None else score_text(trial["validation"], tuning.cell["unit"])
    text = f"{number(trial['value'])}: {score}" + (f" {MARK}" if trial.get("flags") else "")
    return f"**{text}**" if trial["value"] == tuning.chosen else text
