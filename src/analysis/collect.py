"""Run records as one tidy table: a row a run, a column a fact.

A method that trains all smaller ranks with its own has a row for each of them too: `rank` is the row's,
`trained_rank` the run's. `settings` is what two runs must share to be comparable; `body_trained` is everything
trained but the head, which all methods share. A run without a usable record is a row as well, with its `state` and the
`reason`: nothing that lies in the folder is left out.
"""

import json
import math
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd

from src.errors import UserError
from src.results.store import CONFIG, Record, read_record, run_folders

COLUMNS = [
    "folder", "run_id", "state", "reason", "results_version", "trial", "settings", "task", "model", "adapter", "rank",
    "trained_rank", "target", "seed", "lr", "alpha", "scaling", "protocol", "tuning", "trained", "body_trained",
    "head_trained", "adapter_frozen", "total", "validation", "test", "validation_metric", "validation_unit",
    "validation_higher_is_better", "metric", "unit", "higher_is_better", "fingerprint", "evaluated_items", "train_rows",
    "forgetting", "general_text", "train_seconds", "run_seconds", "tokens_per_second", "memory_bytes", "memory_kind",
    "batch_size", "precision", "device", "torch", "python", "git_revision", "history", "warnings",
]  # fmt: skip
MEMORY_KINDS = {"peak_allocated_bytes": "peak allocated on the GPU", "saved_for_backward_bytes": "saved for backward"}
UNREADABLE, UNFINISHED, UNSCORED = "unreadable", "not finished", "not scored"
AXES = ("rank", "lr", "alpha")
READS_SCHEMA = 1  # of records


def collect(results_dir: Path) -> pd.DataFrame:
    """All runs under `results_dir/runs`, sorted by task, model, adapter, rank, target and seed."""
    found = [own for folder in run_folders(results_dir) for own in rows_of(folder)]
    frame = pd.DataFrame(found, columns=COLUMNS)
    frame = frame.astype({"rank": "Int64", "trained_rank": "Int64", "seed": "Int64", "trial": "boolean"})
    keys = ["task", "model", "adapter", "rank", "target", "seed", "run_id"]
    return frame.sort_values(keys, na_position="first", ignore_index=True)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's folder, also where its record is missing, damaged or incomplete."""
    try:
        record = read_record(folder)
        if record is None:
            return [_without_record(folder, UNFINISHED, "it has no record yet: under way, or cut off")]
        schema = record.get("schema_version", READS_SCHEMA)
        if schema != READS_SCHEMA:
            return [_without_record(folder, UNREADABLE, f"its record has schema {schema}, not {READS_SCHEMA}")]
        return [own | {"folder": folder} for own in rows(record)]
    except (UserError, KeyError, TypeError, AttributeError) as error:
        missing = f"its record lacks {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        return [_without_record(folder, UNREADABLE, missing)]


def _without_record(folder: Path, state: str, reason: str) -> dict[str, Any]:
    """A row for a run of which only its config is known, or but its place: runs/<task>/<model>/<run>."""
    task, model = folder.parts[-3:-1]
    found: dict[str, Any] = {"task": task, "model": model, "adapter": folder.name.partition("-")[0]}
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        found = _asked(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    return found | {"folder": folder, "run_id": folder.name, "state": state, "reason": f"{folder.name}: {reason}"}


def rows(record: Record) -> list[dict[str, Any]]:
    """The run's row, and before it those of the smaller ranks that its one training gave."""
    own = row(record)
    smaller = record.get("smaller_ranks", [])
    if smaller:
        own["trained_rank"] = own["rank"]
    found = []
    for scores in smaller:
        fewer = own["body_trained"] - scores["adapter_trained"] - record["parameters"]["other_trained"]
        found.append(
            own
            | {split: scores[split] for split in record["metrics"]}
            | {"rank": scores["rank"], "body_trained": own["body_trained"] - fewer, "trained": own["trained"] - fewer}
        )
    return [*found, own]


def row(record: Record) -> dict[str, Any]:
    """One run as a row; what a run that isn't done doesn't have is missing."""
    found: dict[str, Any] = {
        "run_id": record["run_id"],
        "state": record["state"],
        "reason": (record["error"] or {}).get("message"),
        "results_version": record.get("results_version"),
        "settings": settings(record),
        "fingerprint": record["identity"]["task"].get("fingerprint"),
        **_asked(record["config"]),
    }
    return found | _results(record) if record["state"] == "done" else found


def _asked(config: dict[str, Any]) -> dict[str, Any]:
    """What a run's config asks for."""
    adapter = config["adapter"]
    return {
        "trial": not config.get("trainer", {}).get("score_test", True),
        "task": config["task"]["name"],
        "model": config["model"]["name"],
        "adapter": adapter["name"],
        "target": config["target"]["name"] if "target" in adapter["axes"] else None,
        "seed": config["seed"],
        "protocol": config.get("protocol", "strict"),
        **{axis: config[axis] if axis in adapter["axes"] else None for axis in AXES},
    }


def _results(record: Record) -> dict[str, Any]:
    """What a finished run has; a score that is no number makes it a run that wasn't scored."""
    parameters, time, forgetting = record["parameters"], record["time"], record.get("forgetting")
    found = {
        "scaling": record["scaling"],
        "tuning": record.get("tuning"),
        "body_trained": parameters["adapter_trained"] + parameters["other_trained"],
        **{key: parameters[key] for key in ("trained", "head_trained", "adapter_frozen", "total")},
        **_scores(record),
        "train_rows": record.get("data", {}).get("rows", {}).get("train"),
        "forgetting": forgetting and forgetting["after"] - forgetting["before"],
        "general_text": forgetting and f"{forgetting.get('text')} ({forgetting.get('fingerprint')})",
        **{key: time.get(key) for key in ("train_seconds", "run_seconds", "tokens_per_second")},
        **_memory(record["memory"]),
        "device": record["provenance"]["device"]["name"],
        "torch": record["provenance"].get("packages", {}).get("torch"),
        "python": record["provenance"].get("python"),
        "git_revision": record["provenance"]["git_revision"],
        "history": record.get("history", []),
        "warnings": record.get("warnings", []),
    }
    lost = [split for split in record["metrics"] if found[split] is None or not math.isfinite(found[split])]
    if lost:
        found |= {"state": UNSCORED, "reason": f"{record['run_id']}: its {lost[0]} score is {found[lost[0]]}"}
    return found


def _scores(record: Record) -> dict[str, Any]:
    """The values of the splits that were scored, and what they are; older records hold shares alone."""
    metrics = record["metrics"]
    validation, test = metrics["validation"], metrics.get("test", metrics["validation"])
    return {
        **{split: metric["value"] for split, metric in metrics.items()},
        "validation_metric": validation["name"],
        "validation_unit": validation.get("unit", "share"),
        "metric": test["name"],
        "unit": test.get("unit", "share"),
        "higher_is_better": test.get("higher_is_better", True),
        "validation_higher_is_better": validation.get("higher_is_better", True),
        "evaluated_items": metrics["test"].get("n") if "test" in metrics else None,
    }


def _memory(memory: dict[str, Any]) -> dict[str, Any]:
    """The bytes that training took and what they count: the GPU's peak, or on a CPU what is kept for backward."""
    kind = next(key for key in MEMORY_KINDS if memory.get(key) is not None)
    found = {"memory_bytes": memory[kind], "memory_kind": MEMORY_KINDS[kind]}
    return found | {key: memory.get(key) for key in ("precision", "batch_size")}


def settings(record: Record) -> dict[str, str]:
    """All that determines the run's result but its seed and the axes, flat: `{"trainer.head_lr": "0.3", ...}`."""
    flat: dict[str, str] = {}
    for part in ("model", "task", "trainer"):
        flat |= {f"{part}.{key}": json.dumps(value, sort_keys=True) for key, value in record["identity"][part].items()}
    flat |= {key: record["identity"][key] for key in ("quantization", "protocol") if key in record["identity"]}
    adapter = record["identity"]["adapter"]
    own = {f"adapter.{key}": adapter[key] for key in ("roles", "config") if key in adapter}
    own |= {f"adapter.options.{key}": value for key, value in adapter["options"].items()}
    return flat | {key: json.dumps(value, sort_keys=True) for key, value in own.items()}


def check_one_version(runs: pd.DataFrame, results_dir: Path) -> None:
    """Refuse runs of several versions of the code, whose numbers can't stand in one table.

    Raises:
        UserError: there are several.
    """
    versions: Iterable[Any] = runs["results_version"].dropna().unique()
    if len(list(versions)) > 1:
        counts = runs["results_version"].value_counts().sort_index()
        held = ", ".join(f"version {version:g} ({count} runs)" for version, count in counts.items())
        raise UserError(
            f"{results_dir} holds results of several versions of the code, whose numbers differ: {held}.\n"
            "Keep one version a folder: move the others to a folder of their own."
        )


def runs_in(results_dir: Path) -> pd.DataFrame:
    """The runs under a results folder.

    Raises:
        UserError: it holds none, or those of several versions of the code.
    """
    frame = collect(results_dir)
    if frame.empty:
        raise UserError(
            f"{results_dir} holds no runs.\nMake some with `python -m src.run`, or name a folder with results_dir=..."
        )
    check_one_version(frame, results_dir)
    return frame
