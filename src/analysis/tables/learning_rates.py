"""Learning rates: what was tried for each cell on validation, what came out, and which rate was chosen."""

from typing import Any

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.texts import frame, number, score_text, several, whole, word
from src.analysis.trials import CellTrials, cell_trials, trial_rows


def learning_rates(runs: pd.DataFrame, comparison: Comparison) -> Table | None:
    """A row for each tuned cell; None where no trials are stored."""
    tuned = cell_trials(runs)
    if not tuned:
        return None
    text = frame(
        {
            **several(pd.DataFrame([cell.cell for cell in tuned])),
            "adapter": [cell.cell["adapter"] for cell in tuned],
            "rank": [whole(cell.cell["rank"]) for cell in tuned],
            "target": [word(cell.cell["target"]) for cell in tuned],
            "tuned": [cell.axis for cell in tuned],
            "trials": [", ".join(_trial(cell, trial) for trial in cell.trials) for cell in tuned],
            "chosen": [number(cell.chosen) for cell in tuned],
            "at edge": ["yes" if cell.at_edge else "no" for cell in tuned],
        }
    )
    return Table(
        text, pd.DataFrame(list(trial_rows(tuned))), ["Each trial: rate: validation score; bold is the best one."]
    )


def _trial(cell: CellTrials, trial: dict[str, Any]) -> str:
    score = trial["state"] if trial["validation"] is None else score_text(trial["validation"], cell.cell["unit"])
    text = f"{number(trial['value'])}: {score}"
    return f"**{text}**" if trial["value"] == cell.chosen else text
