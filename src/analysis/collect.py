"""Run records as one tidy table: a row a run, a column a fact.

A method that trains all smaller ranks with its own has a row for each of them too: `rank` is the row's,
`trained_rank` the run's. `settings` is what two runs must share to be comparable; `body_trained` is everything
trained but the head, which all methods share. A run whose record is damaged or isn't there yet has a row that says so:
its state is "unreadable" or "unfinished".
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from src.errors import UserError
from src.results.store import CONFIG, RESULT, Record, read_record, run_folders

COLUMNS = [
    "run_id", "state", "reason", "settings", "task", "model", "adapter", "rank", "trained_rank", "target", "seed", "lr",
    "alpha", "scaling", "trained", "body_trained", "head_trained", "adapter_frozen", "total", "validation", "test",
    "validation_metric", "validation_unit", "metric", "unit",
    "train_seconds", "run_seconds", "saved_for_backward_bytes", "precision", "device", "git_revision",
    "folder", "protocol", "trial", "results_version", "higher_is_better", "fingerprint", "tuning", "tokens_per_second",
    "memory_bytes", "memory_kind", "batch_size", "forgetting", "history", "warnings", "evaluated_items",
]  # fmt: skip
READS_SCHEMA = 1
UNREADABLE, UNFINISHED = "unreadable", "unfinished"
PEAK, SAVED = "peak allocated on the GPU", "saved for backward"
AXES = ("rank", "lr", "alpha")


def row(record: Record) -> dict[str, Any]:
    """One run as a row; what a failed run doesn't have is missing.

    Raises:
        KeyError: the record lacks something.
    """
    found = {
        "run_id": record["run_id"],
        "state": record["state"],
        "reason": (record.get("error") or {}).get("message"),
        "settings": settings(record),
        **_asked(record["config"]),
        "results_version": record["results_version"],
        "fingerprint": record["identity"]["task"].get("fingerprint"),
        "tuning": record.get("tuning"),
        "warnings": record.get("warnings", []),
    }
    return found | _measured(record) if record["state"] == "done" else found


def _asked(config: dict[str, Any]) -> dict[str, Any]:
    """What a run's config asks for."""
    adapter = config["adapter"]
    return {
        "task": config["task"]["name"],
        "model": config["model"]["name"],
        "adapter": adapter["name"],
        "target": config["target"]["name"] if "target" in adapter["axes"] else None,
        "seed": config["seed"],
        **{axis: config[axis] if axis in adapter["axes"] else None for axis in AXES},
        "protocol": config.get("protocol", "strict"),
        "trial": not config.get("trainer", {}).get("score_test", True),
    }


def _measured(record: Record) -> dict[str, Any]:
    """What a finished run showed."""
    parameters, memory, device = record["parameters"], record["memory"], record["provenance"]["device"]
    peak, saved = memory.get("peak_allocated_bytes"), memory["saved_for_backward_bytes"]
    return {
        "scaling": record["scaling"],
        "body_trained": parameters["adapter_trained"] + parameters["other_trained"],
        **{key: parameters[key] for key in ("trained", "head_trained", "adapter_frozen", "total")},
        **_scores(record),
        **{key: record["time"].get(key) for key in ("train_seconds", "run_seconds", "tokens_per_second")},
        "saved_for_backward_bytes": saved,
        "memory_bytes": saved if peak is None else peak,
        "memory_kind": SAVED if peak is None else PEAK,
        "batch_size": memory.get("batch_size"),
        "precision": memory["precision"],
        "device": device["name"],
        "git_revision": record["provenance"]["git_revision"],
        "history": record.get("history", []),
        "forgetting": _forgetting(record),
    }


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
        "evaluated_items": metrics["test"].get("n") if "test" in metrics else None,
    }


def _forgetting(record: Record) -> float | None:
    """How much the loss on general text has grown by training, in nats."""
    measured = record.get("forgetting")
    return measured["after"] - measured["before"] if measured else None


def rows(record: Record) -> list[dict[str, Any]]:
    """The run's row, and before it those of the smaller ranks that its one training gave.

    Raises:
        KeyError: the record lacks something.
    """
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


def collect(results_dir: Path) -> pd.DataFrame:
    """All runs under `results_dir/runs`, sorted by task, model, adapter, rank, target and seed.

    Raises:
        UserError: the folder holds results of several versions of the code, which can't stand beside each other.
    """
    found = [own for folder in run_folders(results_dir) for own in _rows_of(folder, results_dir / "runs")]
    _check_versions(found, results_dir)
    frame = pd.DataFrame(found, columns=COLUMNS).astype({"rank": "Int64", "trained_rank": "Int64", "seed": "Int64"})
    keys = ["task", "model", "adapter", "rank", "target", "seed", "run_id"]
    return frame.sort_values(keys, na_position="first", ignore_index=True)


def _rows_of(folder: Path, root: Path) -> list[dict[str, Any]]:
    """The rows of one run's folder, whatever state it is in."""
    try:
        record = read_record(folder)
        if record is None:
            return [_without_record(folder, root, UNFINISHED, "no record yet")]
        schema = record.get("schema_version", READS_SCHEMA)
        if schema != READS_SCHEMA:
            reason = f"{folder / RESULT} has schema {schema}, this code reads {READS_SCHEMA}"
            return [_without_record(folder, root, UNREADABLE, reason)]
        return [own | {"folder": folder} for own in rows(record)]
    except UserError as error:
        return [_without_record(folder, root, UNREADABLE, str(error).partition("\n")[0])]
    except (KeyError, TypeError, AttributeError) as error:
        reason = f"{folder / RESULT} is not a whole run record ({type(error).__name__}: {error})"
        return [_without_record(folder, root, UNREADABLE, reason)]


def _without_record(folder: Path, root: Path, state: str, reason: str) -> dict[str, Any]:
    """The row of a run of which the config is known at most; its place says of which task and model it is."""
    place = folder.relative_to(root).parts
    found: dict[str, Any] = {"run_id": folder.name, "state": state, "reason": reason, "folder": folder, "trial": False}
    found |= dict(zip(("task", "model"), place[:-1], strict=False)) | {"adapter": folder.name, "protocol": "strict"}
    try:
        return found | _asked(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return found


def _check_versions(found: Iterable[dict[str, Any]], results_dir: Path) -> None:
    runs: dict[Any, list[str]] = {}
    for own in found:
        if own["state"] != UNREADABLE and "results_version" in own:
            runs.setdefault(own["results_version"], []).append(own["run_id"])
    if len(runs) > 1:
        held = ", ".join(f"{version} ({len(own)} runs, as {own[0]})" for version, own in sorted(runs.items(), key=str))
        raise UserError(
            f"{results_dir} holds results of several versions of the code, whose numbers differ: {held}.\n"
            "Give each version a results folder of its own, or delete the older runs and make them again."
        )
