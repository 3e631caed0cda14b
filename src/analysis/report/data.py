"""What the report shows, as plain values: runs, cells, Pareto fronts, trials, tables, warnings and provenance."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from src.analysis.comparison import Run, on_pareto_front, plain, reported_runs
from src.analysis.differences import differences_to, score_in_words, unit_in_words, usual_baseline
from src.analysis.figures.forest import VERDICT_LOOKS
from src.analysis.figures.style import COLORS
from src.analysis.formats import WORDS, Table
from src.analysis.older_rows import older_rows
from src.analysis.sweep import Sweep
from src.analysis.texts import unit_of
from src.analysis.trials import trials

# What a method costs, by the column of the cells: its name, its unit as a divisor.
COSTS: dict[str, tuple[str, float]] = {
    "trained": ("trained parameters with the head", 1),
    "body_trained": ("trained parameters without the head", 1),
    "memory_bytes": ("memory of training, MB", 1e6),
    "train_seconds": ("seconds of training", 1),
    "run_seconds": ("seconds of the whole run", 1),
    "forgetting_mean": ("forgetting, nats per token", 1),
}
SAID_OF_A_CLAIM = ("verdict", "difference", "p")
RUN_COLUMNS = [
    "run_id", "state", "task", "model", "adapter", "rank", "trained_rank", "target", "seed", "lr", "scaling", "trial",
    "body_trained", "validation", "test", "metric", "forgetting", "train_seconds", "memory_bytes", "precision",
    "protocol", "device", "git_revision", "reason", "doubts",
]  # fmt: skip
CELL_COLUMNS = [
    "task", "model", "adapter", "rank", "trained_rank", "target", "lr", "scaling", "differs", "tuning", "split",
    "metric", "validation_metric", "unit", "validation_unit", "mean", "std", "low", "high", "validation_mean",
    "validation_low", "validation_high", "forgetting_std", "n", "failed", "tie", "higher_is_better", "run_ids", *COSTS,
]  # fmt: skip


def report_data(sweep: Sweep, tables: dict[str, Table]) -> dict[str, Any]:
    """All that the page needs, ready for `without_nan` and JSON; the same runs give the same values.

    Args:
        tables: what `python -m src.tables` writes, by name.
    """
    runs, comparison = sweep.records, sweep.comparison
    rows = [run | {"doubts": ", ".join(run["flags"] or [])} for run in plain(runs)]
    trained = list({run["run_id"]: run for run in rows}.values())  # several rows are of one training: DyLoRA's ranks
    cells = plain(comparison.cells[CELL_COLUMNS])
    on_front_by_cost = {cost: on_pareto_front(comparison, cost) for cost in COSTS}
    return {
        "name": sweep.folder.name,
        "states": dict(Counter(run["state"] for run in trained)),
        "colors": list(COLORS),
        "costs": {key: {"label": label, "unit": unit} for key, (label, unit) in COSTS.items()},
        "verdicts": {verdict: look["color"] for verdict, look in VERDICT_LOOKS.items()},
        "forests": forests(sweep),
        "runs": {"columns": RUN_COLUMNS, "rows": [[run[key] for key in RUN_COLUMNS] for run in rows]},
        "cells": [cell | {"pareto_front": _costs_with(on_front_by_cost, index)} for index, cell in enumerate(cells)],
        "curves": {run["run_id"]: _curve(run) for run in plain(reported_runs(runs)) if run["state"] == "done"},
        "trials": plain(trials(runs)),
        "tables": [_table(key, table) for key, table in tables.items()],
        "warnings": warnings(trained, cells),
        "provenance": provenance_counts(trained),
    }


def forests(sweep: Sweep) -> list[dict[str, Any]]:
    """For each task and model with a score the differences of its cells to the usual baseline, the best first.

    A row has the cell's `index` in the comparison and the columns of `differences_to`; those of shares are in points.
    """
    drawn = []
    for (task, model), cells in sweep.cells.groupby(["task", "model"], sort=True):
        if cells["mean"].isna().all():
            continue
        baseline = usual_baseline(cells)
        cell, rows = sweep.cells.iloc[baseline], differences_to(sweep.comparison, sweep.names, baseline)
        ends, unit = ["difference", "low", "high"], unit_of(cell)
        rows[ends] = (100.0 if unit == "share" else 1.0) * rows[ends].astype(float)
        drawn.append({
            "task": task, "model": model, "baseline": sweep.names[baseline], "score": score_in_words(cell),
            "unit": unit_in_words(unit), "higher_is_better": bool(cell["higher_is_better"]),
            "rows": [{"index": index} | row for index, row in zip(rows.index, plain(rows), strict=True)],
        })  # fmt: skip
    return drawn


def _costs_with(on_front_by_cost: dict[str, list[bool]], index: int) -> list[str]:
    """The costs for which a cell is on the Pareto front."""
    return [cost for cost, on_front in on_front_by_cost.items() if on_front[index]]


def _curve(run: Run) -> list[list[float | None]]:
    """A run's points: step, training loss, validation score; the final validation is the last."""
    points = [[point["step"], point.get("loss"), point.get("validation")] for point in run["history"] or []]
    return [*points, [max((point[0] for point in points), default=0), None, run["validation"]]]


def _table(key: str, table: Table) -> dict[str, Any]:
    """A table as the page draws it; `words` says that a column is text, to be aligned and sorted as such."""
    # What a claim's row says comes right after the claim: at the end, a narrow window would hide it.
    names = list(table.text)
    said = [name for name in SAID_OF_A_CLAIM if name in names] if "verdict" in names else []
    text = table.text[[*names[:1], *said, *(name for name in names[1:] if name not in said)]]
    columns = [{"name": name, "words": name in WORDS} for name in text]
    rows = text.astype(str).values.tolist()
    return {"key": key, "title": key.replace("_", " ").capitalize(), "columns": columns, "rows": rows,
            "notes": table.notes}  # fmt: skip


def warnings(runs: list[Run], cells: list[dict[str, Any]]) -> list[str]:
    """What a reader must know before believing a number, the gravest first.

    Args:
        runs: the trained runs, each once, with what is missing as None.
        cells: the rows of the comparison, likewise.
    """
    return [
        *_unfinished(runs),
        *_doubtful(runs),
        *_mixtures(runs),
        *older_rows(pd.DataFrame(runs)),
        *_thin(cells),
        *_of_runs(runs),
    ]


def _unfinished(runs: list[Run]) -> Iterator[str]:
    """Each run that isn't done, with its reason."""
    for run in runs:
        if run["state"] != "done":
            yield f"{run['run_id']}: {run['state']}: {run['reason'] or 'no reason is stored'}"


def _doubtful(runs: list[Run]) -> Iterator[str]:
    """Each kind of doubtful score, with the runs that have it."""
    runs_with: dict[str, list[str]] = defaultdict(list)
    for run in runs:
        for flag in run["flags"] or []:
            runs_with[flag].append(run["run_id"])
    for flag, names in sorted(runs_with.items()):
        yield f"Doubtful scores, {flag}: {', '.join(names)}."


def _mixtures(runs: list[Run]) -> Iterator[str]:
    """In what the runs that are shown side by side differ."""
    done = [run for run in runs if run["state"] == "done"]
    for what, key in (("revisions of the code", "git_revision"), ("devices", "device"), ("builds of PyTorch", "torch"),
                      ("versions of Python", "python"), ("precisions", "precision"),
                      ("kinds of memory", "memory_kind"), ("protocols", "protocol")):  # fmt: skip
        kinds = Counter(str(run[key]) for run in done)
        if len(kinds) > 1:
            shown = ", ".join(f"{kind} ({number})" for kind, number in sorted(kinds.items()))
            yield f"Runs of several {what}: {shown}."
    # Once for each version of a task's data, not for each run.
    by_task = Counter((run["task"], run["fingerprint"]) for run in done)
    for task, versions in Counter(task for task, _ in by_task).items():
        if versions > 1:
            yield f"task={task} has {versions} versions of its data here; only runs on the same data are compared."


def _thin(cells: list[dict[str, Any]]) -> Iterator[str]:
    """What rests on too few seeds or on an untuned rate."""
    single = sum(cell["n"] == 1 for cell in cells)
    if single:
        yield f"{single} of {len(cells)} rows have one seed: their spread over seeds isn't known."
    at_edge = sum("at edge" in cell["tuning"] for cell in cells)
    if at_edge:
        yield f"{at_edge} of {len(cells)} rows have their best learning rate at the edge of what was tried."
    untuned = sum(cell["tuning"] == "untuned" for cell in cells)
    if untuned:
        yield f"{untuned} of {len(cells)} rows have a learning rate that wasn't tuned for them."


def _of_runs(runs: list[Run]) -> Iterator[str]:
    """The warnings in the records, each once, with the number of runs that have it."""
    counts = Counter(text for run in runs for text in run["warnings"] or [])
    for text, number in sorted(counts.items()):
        yield f"{text} (in {number} run{'s' if number > 1 else ''})"


def provenance_counts(runs: list[Run]) -> list[dict[str, Any]]:
    """How many finished runs come from which code, device and data, as `runs` beside the values of these."""
    keys = ("git_revision", "shared_code", "device", "precision", "torch", "task", "fingerprint")
    counts = Counter(tuple(run[key] for key in keys) for run in runs if run["state"] == "done")
    # Sorted as texts: some values are None, which has no order.
    ordered = sorted(counts.items(), key=lambda item: tuple(map(str, item[0])))
    return [dict(zip(keys, values, strict=True)) | {"runs": number} for values, number in ordered]


def without_nan(value: Any) -> Any:
    """The same value with None where JSON has no number, and numbers of pandas and NumPy as Python's."""
    if isinstance(value, dict):
        return {str(key): without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    plain_value = value.item() if hasattr(value, "item") else value
    # NaN and infinities aren't JSON: a browser refuses a file that has them.
    return None if isinstance(plain_value, float) and not math.isfinite(plain_value) else plain_value
