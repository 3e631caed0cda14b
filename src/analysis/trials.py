"""The trials that chose learning rates as one tidy table: those stored with tuned runs, or trial runs themselves."""

from typing import Any

import pandas as pd

COLUMNS = ["task", "model", "adapter", "rank", "target", "axis", "value", "validation", "state", "chosen", "at_edge",
           "unit", "seed"]  # fmt: skip
CELL = ["task", "model", "adapter", "rank", "target"]


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a trial; of a tuned cell each once, though all its runs store it.

    Trial runs in a folder without tuned runs are trials too, of which none was chosen.
    """
    tuned = runs[[isinstance(own, dict) for own in runs["tuning"]]]
    rows = [row for run in tuned.to_dict("records") for row in _stored(run)]
    if not rows:
        rows = [_run(run) for run in runs[runs["trial"].eq(True).fillna(False)].to_dict("records")]
    return pd.DataFrame(rows, columns=COLUMNS).drop_duplicates(ignore_index=True).astype({"rank": "Int64"})


def _stored(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The trials in a run's record."""
    tuning, cell = run["tuning"], {key: run[key] for key in CELL}
    common = cell | {"axis": tuning["axis"], "unit": run["validation_unit"], "seed": tuning["seed"]}
    return [
        common | trial | {"chosen": trial["value"] == tuning["chosen"], "at_edge": tuning["at_edge"]}
        for trial in tuning["trials"]
    ]


def _run(run: dict[str, Any]) -> dict[str, Any]:
    """A trial run as a trial; where its method has no rate, it is the head's that was tried."""
    rated = not pd.isna(run["lr"])
    rate = run["lr"] if rated else float((run["settings"] or {}).get("trainer.head_lr", "nan"))
    facts = {"axis": "lr" if rated else "trainer.head_lr", "value": rate, "chosen": False, "at_edge": False}
    return {key: run[key] for key in CELL} | facts | {
        "validation": run["validation"], "state": run["state"], "unit": run["validation_unit"], "seed": run["seed"],
    }  # fmt: skip
