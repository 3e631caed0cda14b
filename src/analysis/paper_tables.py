"""A paper's own table beside ours: reported, computed, measured, and a verdict for each of its numbers.

`experiments/<study>/paper.yaml` names the paper and its tables; how their words are read stands in
`experiments/reported/readings.yaml`. A number is compared only where a run of the study has the same model, method,
rank, target, task and metric, and is trained and scored as the study says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import yaml

from src.analysis.claims import EXPERIMENTS
from src.analysis.collect import settings
from src.analysis.parameter_counts import Counted
from src.analysis.reported import read, readings, reported
from src.analysis.statistics import bootstrap_intervals
from src.composition import sweep_configs
from src.config import Config
from src.counting import count_configs
from src.identity import identity
from src.results.store import read_record

REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE, NOT_RUN = "reproduced", "not reproduced", "not comparable", "not run"
SPREAD = " (+/-)"  # ends the metric of a row that holds the spread of the row of the same name without it
ROW = ["model", "method", "rank", "target", "task"]
Key = tuple[str, str, int | None, frozenset[str], str]


@dataclass(frozen=True)
class Paper:
    """What a study stands beside; `not_comparable` is why none of its runs can be held against the paper's numbers."""

    paper: str
    tables: list[str]
    not_comparable: str = ""


def paper_of(study: str) -> Paper | None:
    """The paper that a study stands beside, None where it stands for itself."""
    path = EXPERIMENTS / study / "paper.yaml"
    return Paper(**yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else None


def reported_rows(paper: Paper) -> pd.DataFrame:
    """The paper's numbers in its order, each with its `spread` where that is reported."""
    rows = reported()
    rows = rows[(rows["paper"] == paper.paper) & rows["table"].isin(paper.tables)]
    is_spread = rows["metric"].str.endswith(SPREAD)
    spreads = rows[is_spread].assign(metric=rows["metric"].str.removesuffix(SPREAD))
    keys = ["table", *ROW, "metric", "params_reported"]
    own = spreads.drop_duplicates(keys).set_index(keys)["value"].rename("spread")
    return rows[~is_spread].join(own, on=keys).fillna({"spread": ""})


def paper_table(
    study: str, cells: pd.DataFrame, runs: pd.DataFrame, counted: Callable[[list[str]], Counted]
) -> pd.DataFrame:
    """A row for each number of the study's paper.

    Args:
        cells: the comparison of the study's runs; empty before there are any.
        counted: counts what overrides of `python -m src.params` ask for.

    Returns:
        The reported row with `computed`, `measured`, `low`, `high`, `n`, `verdict` and `why`; empty where the study has
        no paper. `measured` is in the unit of the reported value.
    """
    paper = paper_of(study)
    if paper is None:
        return pd.DataFrame()
    known, places = readings(), _cells_by_key(cells)
    rows = []
    for row in reported_rows(paper).to_dict("records"):
        reading = read(row, known)
        count = counted(reading.overrides) if reading.overrides else Counted(None)
        ledger = count.ledger
        heads = row["paper"] in known["head_counted"]
        computed = None if ledger is None else ledger.trained if heads else ledger.paper_trained
        key = _key(reading.overrides, known["tasks"].get(row["task"], "")) if reading.overrides else None
        cell = cells.iloc[places[key]] if key in places else None
        rows.append(row | {"computed": computed} | _measured(study, paper, row, cell, runs, known))
    return pd.DataFrame(rows).astype({"computed": "Int64", "n": "Int64"})


def _measured(
    study: str,
    paper: Paper,
    row: dict[str, Any],
    cell: "pd.Series[Any] | None",
    runs: pd.DataFrame,
    known: dict[str, Any],
) -> dict[str, Any]:
    """What the study's runs say of one reported number."""
    nothing = {"measured": None, "low": None, "high": None, "n": 0}
    if cell is None:
        why = paper.not_comparable or ("" if row["task"] in known["tasks"] else f"{row['task']} isn't a task here")
        return nothing | {"verdict": NOT_COMPARABLE if why else NOT_RUN, "why": why}
    of_cell = runs[runs["run_id"].isin(cell["run_ids"]) & (runs["state"] == "done")]
    metrics = known["metrics"].get(row["metric"], [])
    values = _values(of_cell, metrics)
    if values is None:
        why = f"{row['metric']} isn't measured here; the runs have {cell['metric']}"
        return nothing | {"verdict": NOT_COMPARABLE, "why": why}
    scale = 100.0 if cell["unit"] == "share" else 1.0
    low, high = (cell["low"], cell["high"]) if cell["metric"] in metrics else _interval(values)
    shown = {"measured": scale * values.mean(), "low": scale * low, "high": scale * high, "n": len(values)}
    why = paper.not_comparable or _differences(study, of_cell.iloc[0].to_dict())
    return shown | ({"verdict": NOT_COMPARABLE, "why": why} if why else _verdict(row, shown))


def _verdict(row: dict[str, Any], shown: dict[str, Any]) -> dict[str, str]:
    """Reproduced where the reported value, give or take its own spread, meets the measured interval."""
    value, spread = float(row["value"]), float(row["spread"] or 0)
    if shown["n"] < 2:
        return {"verdict": NOT_COMPARABLE, "why": "one seed has no interval over seeds"}
    inside = value + spread >= shown["low"] and value - spread <= shown["high"]
    return {"verdict": REPRODUCED if inside else NOT_REPRODUCED, "why": ""}


def _values(runs: pd.DataFrame, metrics: list[str]) -> "pd.Series[float] | None":
    """The runs' test scores by one of the metrics: the primary, or one recorded beside it."""
    if runs["metric"].isin(metrics).all():
        return runs["test"].astype(float)
    found = []
    for folder in runs["folder"]:
        more = (read_record(folder) or {}).get("metrics", {}).get("test", {}).get("more", {})
        found.append(next((more[name] for name in metrics if name in more), None))
    return None if None in found else pd.Series(found, dtype=float)


def _interval(values: "pd.Series[float]") -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), float("nan")
    ((low, high),) = bootstrap_intervals([values.to_numpy()[:, None]], np.random.default_rng(0))
    return float(low), float(high)


def _cells_by_key(cells: pd.DataFrame) -> dict[Key, int]:
    """The places of the cells that have runs, by what a reported row fixes."""
    found: dict[Key, int] = {}
    for place, cell in enumerate(cells.to_dict("records")):
        if cell["n"] == 0:
            continue
        rank = None if pd.isna(cell["rank"]) else int(cell["rank"])
        roles = frozenset() if pd.isna(cell["target"]) else _roles(cell["target"], cell["model"])
        found.setdefault((cell["model"], cell["adapter"], rank, roles, cell["task"]), place)
    return found


@lru_cache
def _roles(target: str, model: str) -> frozenset[str]:
    (config,) = count_configs([f"model={model}", f"target={target}"])
    return frozenset(config.target_roles())


def _key(overrides: list[str], task: str) -> Key:
    """What a reported row's reading fixes."""
    (config,) = count_configs(overrides)
    rank = config.rank if config.has_axis("rank") else None
    roles = frozenset(config.target_roles()) if config.has_axis("target") else frozenset()
    return config.model.name, config.adapter.name, rank, roles, task


def _differences(study: str, run: dict[str, Any]) -> str:
    """In what the run is trained or scored otherwise than the study's config says; empty where in nothing."""
    for config in _study_configs(study):
        same = (config.model.name, config.adapter.name, config.task.name) == (run["model"], run["adapter"], run["task"])
        if same and (not config.has_axis("rank") or config.rank == run["rank"]):
            wanted, given = settings({"identity": identity(config, "")}), run["settings"]
            keys = [key for key in {**wanted, **given}
                    if key.startswith(("trainer.", "task.", "protocol")) and key != "task.fingerprint"]  # fmt: skip
            shown = [f"{key}={given.get(key)} (the study: {wanted.get(key)})" for key in sorted(keys)
                     if wanted.get(key) != given.get(key)]  # fmt: skip
            return ", ".join(shown)
    return "the study has no such run"


@lru_cache(maxsize=1)
def _study_configs(study: str) -> list[Config]:
    return [Config.from_hydra(job) for job in sweep_configs([f"experiment={study}"])]


def readable_paper_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table as texts for people; a dagger marks what somebody else reports."""
    rows = []
    for own in table.to_dict("records"):
        size = f"{own['params_reported']} {own['params_unit']}".strip() if own["params_reported"] else ""
        spread = f" ± {own['spread']}" if own["spread"] else ""
        rows.append(
            {
                **{key: own[key] or "-" for key in ROW},
                "metric": own["metric"] or "-",
                "reported": f"{own['value']}{spread}†" if own["value"] else "-",
                "trust": own["trust"],
                "parameters, reported": f"{size}†" if size else "-",
                "computed": "-" if pd.isna(own["computed"]) else f"{own['computed']:,}",
                "measured": "-" if pd.isna(own["measured"]) else f"{own['measured']:.1f}",
                "95 % interval": "-" if pd.isna(own["low"]) else f"{own['low']:.1f} to {own['high']:.1f}",
                "n": str(own["n"]),
                "verdict": own["verdict"],
                "why": own["why"] or "-",
            }
        )
    return pd.DataFrame(rows)
