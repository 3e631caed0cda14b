"""Learning rates: what was tried for each cell on validation, what came out, and which rate was chosen."""

from typing import Any

import pandas as pd

from src.analysis.comparison import Comparison
from src.analysis.formats import Table
from src.analysis.texts import frame, number, scaled, several, whole, word
from src.analysis.trials import Search, rows, searches


def learning_rates(runs: pd.DataFrame, found: Comparison) -> Table | None:
    """A row for each tuned cell; None where no trials are known."""
    tuned = searches(runs)
    if not tuned:
        return None
    text = frame(
        {
            **several(pd.DataFrame([own.cell for own in tuned])),
            "adapter": [own.cell["adapter"] for own in tuned],
            "rank": [whole(own.cell["rank"]) for own in tuned],
            "target": [word(own.cell["target"]) for own in tuned],
            "tuned": [own.axis for own in tuned],
            "trials": [", ".join(_trial(own, trial) for trial in own.trials) for own in tuned],
            "chosen": [number(own.chosen) for own in tuned],
            "at edge": ["yes" if own.at_edge else "no" for own in tuned],
        }
    )
    return Table(text, pd.DataFrame(list(rows(tuned))), ["Each trial: rate: validation score; bold is the best one."])


def _trial(own: Search, trial: dict[str, Any]) -> str:
    score = trial["state"] if trial["validation"] is None else scaled(trial["validation"], own.cell["unit"])
    text = f"{number(trial['value'])}: {score}"
    return f"**{text}**" if trial["value"] == own.chosen else text
