"""What papers report, and how their words are read as commands: the data of `experiments/reported`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "reported"
UNITS = {"M": 1_000_000, "K": 1_000, "params": 1, "count": 1}
PERCENT = "% of params"
# A reported count: its rows differ in task, metric and value alone.
COUNT = ["paper", "table", "model", "method", "rank", "target", "params_reported", "params_unit", "trust"]


@dataclass(frozen=True)
class Reading:
    """A reported configuration as overrides of `python -m src.params`, or the reason why it can't be fixed."""

    overrides: list[str]
    reason: str = ""


def reported() -> pd.DataFrame:
    """All reported numbers as text, in the order of the file; what isn't reported is an empty string."""
    return pd.read_csv(FOLDER / "reported.csv", dtype=str, keep_default_na=False)


def reported_counts() -> pd.DataFrame:
    """The reported parameter counts, each once, with the number of results that it stands beside in `results`."""
    frame = reported()
    with_count = frame[frame["params_reported"] != ""]
    counts = with_count.groupby(COUNT, sort=False)
    return counts.agg(results=("value", "size"), source=("source", "first")).reset_index()


def load_readings() -> dict[str, Any]:
    """The content of `readings.yaml`: how the words of papers are read."""
    content: dict[str, Any] = yaml.safe_load((FOLDER / "readings.yaml").read_text(encoding="utf-8"))
    return content


def read_configuration(row: dict[str, str], readings: dict[str, Any]) -> Reading:
    """Read one reported configuration by the lists in `readings`; what isn't in a list gives a reason instead."""
    if row["method"] in readings["unread"]:
        return Reading([], readings["unread"][row["method"]])
    if row["params_unit"] and row["params_unit"] not in (*UNITS, PERCENT):
        return Reading([], f"{row['params_unit']} is no count of parameters")
    if row["model"] not in readings["models"]:
        return Reading([], f"{row['model']} has no yaml in conf/model")
    if row["method"] not in readings["methods"]:
        return Reading([], "the method isn't here, or its arguments aren't given")
    meant = readings["ranks"].get(row["rank"], {})
    # A paper's word for a rank may imply a target set, such as "rq=rv=8", and the row then needn't name it.
    rank, target = meant.get("rank", row["rank"]), meant.get("target", row["target"])
    overrides = [f"model={readings['models'][row['model']]}", *readings["methods"][row["method"]]]
    if str(rank).isdigit():
        overrides.append(f"rank={rank}")
    if target in readings["targets"]:
        overrides += [f"target.roles=[{','.join(readings['targets'][target])}]", "target.optional_roles=[]"]
    return Reading(overrides)


def note(row: dict[str, str], readings: dict[str, Any]) -> str:
    """The explanation that was written for this count, empty where there is none."""
    for entry in readings["notes"]:
        if all(row[key] == value for key, value in entry["match"].items()):
            return str(entry["note"])
    return ""
