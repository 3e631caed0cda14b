"""A paper's table beside ours: reported, computed, measured, and a verdict for each of its numbers.

`experiments/<study>/paper.yaml` names the paper, its tables, and what of them the study is about;
`experiments/reported/readings.yaml` says how their words are read. A number is compared only where a run of the study
has the same model, method, rank, target, task and metric, and is trained and scored as the study says. The task may be
one of the sets that a run is scored on.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd
import yaml

from src.analysis.collect import settings
from src.analysis.statistics import SEEDS, mean_of
from src.config.schema import Config
from src.config.steps import resolved_steps
from src.config.sweeps import run_configs
from src.results.identity import decisive
from src.results.store import read_record
from src.studies.claims import EXPERIMENTS
from src.studies.counting import count_configs, missing_axis
from src.studies.parameter_counts import Counted
from src.studies.reported import Reading, load_readings, read_configuration, reported

REPRODUCED, NOT_REPRODUCED, NOT_COMPARABLE, NOT_RUN = "reproduced", "not reproduced", "not comparable", "not run"
SPREAD = " (+/-)"  # ends the metric of a row that holds the spread of the row of the same name without it
ROW = ["model", "method", "rank", "target", "task"]
Key = tuple[str, str, int | None, frozenset[str], str]


@dataclass(frozen=True)
class Paper:
    """What a study stands beside, all of it in the words of `reported.csv`.

    `paper` is a name or several. `only` keeps the rows whose columns have one of the values; `given` fills in what the
    tables leave out (a rank, a target) and the authors say elsewhere. `not_comparable` is why no run of the study can
    be held against the numbers; as a list, each reason has the rows that it is about.
    """

    paper: str | list[str]
    tables: list[str]
    only: dict[str, list[str]] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    not_comparable: str | list[dict[str, Any]] = ""

    @property
    def papers(self) -> list[str]:
        """The names of the papers."""
        return [self.paper] if isinstance(self.paper, str) else self.paper

    def reason(self, row: dict[str, Any]) -> str:
        """Why the study can't be held against this number; empty where it can."""
        if isinstance(self.not_comparable, str):
            return self.not_comparable
        for entry in self.not_comparable:
            if all(row[column] in values for column, values in entry["match"].items()):
                return str(entry["why"])
        return ""

    def completed(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with what the authors say elsewhere."""
        return row | {column: value for column, value in self.given.items() if not row[column]}


@dataclass(frozen=True)
class Counterpart:
    """Where a reported number stands among the runs: the index of a cell, and a set of its task if that has several."""

    cell: int
    set: str = ""


def paper_of(study: str) -> Paper | None:
    """The paper that a study stands beside, None where it stands for itself."""
    path = EXPERIMENTS / study / "paper.yaml"
    return Paper(**yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else None


def reported_rows(paper: Paper) -> pd.DataFrame:
    """The paper's numbers that the study is about, in their order, each with its `spread` where that is reported."""
    rows = reported()
    rows = rows[rows["paper"].isin(paper.papers) & rows["table"].isin(paper.tables)]
    for column, values in paper.only.items():
        rows = rows[rows[column].isin(values)]
    is_spread = rows["metric"].str.endswith(SPREAD)
    spreads = rows[is_spread].assign(metric=rows["metric"].str.removesuffix(SPREAD))
    # A spread is a row of the CSV file; it belongs to the number that is equal to it in all of these.
    keys = ["table", *ROW, "metric", "params_reported"]
    spread_of = spreads.drop_duplicates(keys).set_index(keys)["value"].rename("spread")
    return rows[~is_spread].join(spread_of, on=keys).fillna({"spread": ""})


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
    reported = pd.DataFrame() if paper is None else reported_rows(paper)
    if paper is None or reported.empty:
        return pd.DataFrame()
    readings, cell_of = load_readings(), _cells_by_key(cells)
    rows = []
    for row in reported.to_dict("records"):
        reading = read_configuration(paper.completed(row), readings)
        ledger = counted(reading.overrides).ledger if reading.overrides else None
        # Some papers count the head among the trained parameters, most don't.
        heads = row["paper"] in readings["head_counted"]
        computed = None if ledger is None else ledger.trained if heads else ledger.paper_trained
        counterpart = _counterpart(
            reading.overrides, readings["tasks"].get(row["task"], ""), cell_of, readings["mixtures"]
        )
        why = paper.reason(row) or ("" if counterpart else _why_unmatched(row, reading, readings))
        cell = cells.iloc[counterpart.cell] if counterpart else None
        part = (counterpart.set or readings["sets"].get(row["metric"], "")) if counterpart else ""
        rows.append(row | {"computed": computed} | _measured(study, row, cell, part, why, runs, readings))
    return pd.DataFrame(rows).astype({"computed": "Int64", "n": "Int64"})


def _why_unmatched(row: dict[str, Any], reading: Reading, readings: dict[str, Any]) -> str:
    """Why no run could have a reported number; empty where it just hasn't been run yet."""
    if reading.reason:
        return reading.reason
    if row["task"] not in readings["tasks"]:
        return f"{row['task']} isn't a task here"
    if row["metric"] not in readings["metrics"]:
        return f"{row['metric']} isn't measured here"
    (config,) = count_configs(reading.overrides)
    axis = missing_axis(config, reading.overrides)
    return f"its {axis} isn't given" if axis else ""


def _measured(
    study: str, row: dict[str, Any], cell: "pd.Series[Any] | None", part: str, why: str, runs: pd.DataFrame,
    readings: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """What the study's runs say of one reported number.

    Args:
        cell: the runs that are the reported one's counterpart, of which `part` is the set that it is of.
        why: the reason why they can't be held against it, empty where they can.
    """
    nothing = {"measured": None, "low": None, "high": None, "n": 0}
    if cell is None:
        return nothing | {"verdict": NOT_COMPARABLE if why else NOT_RUN, "why": why}
    of_cell = runs[runs["run_id"].isin(cell["run_ids"]) & (runs["state"] == "done")]
    metrics = readings["metrics"].get(row["metric"], [])
    values = _values(of_cell, metrics, part)
    if values is None:
        why = f"{row['metric']} isn't measured here; the runs have {cell['metric']}"
        return nothing | {"verdict": NOT_COMPARABLE, "why": why}
    # Papers report most shares in percent; `readings.yaml` lists the metrics that they report as shares.
    scale = 100.0 if cell["unit"] == "share" and row["metric"] not in readings["shares"] else 1.0
    is_primary = cell["metric"] in metrics and not part
    low, high = (cell["low"], cell["high"]) if is_primary else _interval(values)
    shown = {"measured": scale * values.mean(), "low": scale * low, "high": scale * high, "n": len(values)}
    why = why or _differences(study, of_cell.iloc[0].to_dict())
    return shown | ({"verdict": NOT_COMPARABLE, "why": why} if why else _verdict(row, shown))


def _verdict(row: dict[str, Any], shown: dict[str, Any]) -> dict[str, str]:
    """Reproduced where the reported value, give or take its spread, meets the measured interval."""
    value, spread = float(row["value"]), float(row["spread"] or 0)
    if shown["n"] < 2:  # an interval over items alone would be too narrow for another training
        return {"verdict": NOT_COMPARABLE, "why": "one seed has no interval over seeds"}
    inside = value + spread >= shown["low"] and value - spread <= shown["high"]
    return {"verdict": REPRODUCED if inside else NOT_REPRODUCED, "why": ""}


def _values(runs: pd.DataFrame, metrics: list[str], set_name: str) -> "pd.Series[float] | None":
    """The runs' test scores by one of the metrics: the primary, on one set alone, or one recorded beside it."""
    primary = runs["metric"].isin(metrics).all()
    if primary and not set_name:
        return runs["test"].astype(float)
    scores = []
    for folder in runs["folder"]:
        record = read_record(folder)
        test: dict[str, Any] = dict(record["metrics"].get("test", {})) if record and "metrics" in record else {}
        more = test.get("more", {})
        # A record has the sets of a mixture by the primary metric alone.
        if set_name:
            scores.append(test.get("sets", {}).get(set_name) if primary else None)
        else:
            scores.append(next((more[name] for name in metrics if name in more), None))
    return None if None in scores else pd.Series(scores, dtype=float)


def _interval(values: "pd.Series[float]") -> tuple[float, float]:
    """The ends of the 95 % interval of the runs' mean, NaN for a single run."""
    if len(values) < 2:
        return float("nan"), float("nan")
    # Of these scores only the runs' means are stored, so the interval is over seeds alone.
    return mean_of(values.to_numpy(dtype=float), SEEDS).interval()


def _cells_by_key(cells: pd.DataFrame) -> dict[Key, int]:
    """The indices of the cells that have runs, by what a reported row fixes."""
    index_of: dict[Key, int] = {}
    for index, cell in enumerate(cells.to_dict("records")):
        if cell["n"] == 0:
            continue
        rank = None if pd.isna(cell["rank"]) else int(cell["rank"])
        roles = frozenset() if pd.isna(cell["target"]) else _roles(cell["target"], cell["model"])
        # Of several cells, such as two rates, the first stands for all.
        index_of.setdefault((cell["model"], cell["adapter"], rank, roles, cell["task"]), index)
    return index_of


@lru_cache
def _roles(target: str, model: str) -> frozenset[str]:
    """The roles that a target set has on a model: papers name matrices, not this project's sets."""
    (config,) = count_configs([f"model={model}", f"target={target}"])
    return frozenset(config.target_roles())


def _counterpart(
    overrides: list[str], task: str, cells: dict[Key, int], mixtures: dict[str, list[str]]
) -> Counterpart | None:  # fmt: skip
    """Where the runs have what the overrides fix: in the task's cell, or as a set in the cell of a mixture of tasks.

    None where there is no such cell, or the overrides leave an axis of their method open.
    """
    if not (overrides and task and cells):
        return None
    (config,) = count_configs(overrides)
    if missing_axis(config, overrides):
        return None
    rank = config.rank if config.has_axis("rank") else None
    roles = frozenset(config.target_roles()) if config.has_axis("target") else frozenset()
    named = [(task, ""), *((mixture, task) for mixture, sets in mixtures.items() if task in sets)]
    for cell_task, set_name in named:  # the task itself first: a mixture is scored on other sets too
        cell = cells.get((config.model.name, config.adapter.name, rank, roles, cell_task))
        if cell is not None:
            return Counterpart(cell, set_name)
    return None


def _differences(study: str, run: dict[str, Any]) -> str:
    """In what the run was trained or scored otherwise than the study's config says; empty if it wasn't."""
    differences = [_differing(config, run) for config in _study_configs(study) if _is_of(config, run)]
    # A study may have several runs of this cell, such as two lengths: the nearest one is its counterpart.
    fewest = min(differences, key=len, default=["the study has no such run"])
    return ", ".join(fewest)


def _is_of(config: Config, run: dict[str, Any]) -> bool:
    """Say whether the run's model, method, task, rank and target set are the config's."""
    named = (config.model.name, config.adapter.name, config.task.name) == (run["model"], run["adapter"], run["task"])
    rank = not config.has_axis("rank") or config.rank == run["rank"]
    return named and rank and (not config.has_axis("target") or config.target.name == run["target"])


def _differing(config: Config, run: dict[str, Any]) -> list[str]:
    """The settings in which they differ; a rate that was chosen on validation is no difference."""
    config = resolved_steps(config, run["train_rows"])
    of_study, of_run = (_comparable(flat) for flat in (settings(decisive(config)), run["settings"]))
    # Alpha and rate are axes of the sweep and no part of the settings, so they are compared by themselves.
    for axis in ("alpha", *(() if isinstance(run.get("tuning"), dict) else ("lr",))):
        if config.has_axis(axis):
            of_study, of_run = of_study | {axis: f"{getattr(config, axis):g}"}, of_run | {axis: f"{run[axis]:g}"}
    keys = [key for key in sorted({**of_study, **of_run}) if of_study.get(key) != of_run.get(key)]
    return [f"{key}={of_run.get(key)} (the study: {of_study.get(key)})" for key in keys]


def _comparable(flat: dict[str, str]) -> dict[str, str]:
    """All settings but the weights', the data and the precision, which are known only where a run is."""
    parts = ("trainer.", "task.", "adapter.", "protocol", "quantization")
    unknown = ("task.fingerprint", "trainer.precision")
    return {key: value for key, value in flat.items() if key.startswith(parts) and key not in unknown}


@lru_cache(maxsize=1)
def _study_configs(study: str) -> list[Config]:
    """The study's runs, of one seed."""
    return run_configs([f"experiment={study}", "seed=0"])


def readable_paper_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table of `paper_table` as texts for people; a dagger marks what somebody else reports."""
    rows = []
    for row in table.to_dict("records"):
        size = f"{row['params_reported']} {row['params_unit']}".strip() if row["params_reported"] else ""
        spread = f" ± {row['spread']}" if row["spread"] else ""
        digits = 1 if pd.isna(row["measured"]) or abs(row["measured"]) > 1 else 3  # of a share
        rows.append(
            {
                **{key: row[key] or "-" for key in ROW},
                "metric": row["metric"] or "-",
                "reported": f"{row['value']}{spread}†" if row["value"] else "-",
                "trust": row["trust"],
                "parameters, reported": f"{size}†" if size else "-",
                "computed": "-" if pd.isna(row["computed"]) else f"{row['computed']:,}",
                "measured": "-" if pd.isna(row["measured"]) else f"{row['measured']:.{digits}f}",
                "95 % interval": "-" if pd.isna(row["low"]) else f"{row['low']:.{digits}f} to {row['high']:.{digits}f}",
                "n": str(row["n"]),
                "verdict": row["verdict"],
                "why": row["why"] or "-",
            }
        )
    return pd.DataFrame(rows)
