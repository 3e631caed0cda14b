"""Run records as one tidy table: a row a run, a column a fact.

A method that trains all smaller ranks with its own has a row for each of them too: `rank` is the row's,
`trained_rank` the run's. `settings` is what two runs must share to be comparable; `body_trained` is everything
trained but the head, which all methods share.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from src.results.store import Record, read_all

COLUMNS = [
    "run_id", "state", "reason", "settings", "task", "model", "adapter", "rank", "trained_rank", "target", "seed", "lr",
    "alpha", "scaling", "trained", "body_trained", "head_trained", "adapter_frozen", "total", "validation", "test",
    "validation_metric", "validation_unit", "metric", "unit",
    "train_seconds", "run_seconds", "saved_for_backward_bytes", "precision", "device", "git_revision",
]  # fmt: skip


def row(record: Record) -> dict[str, Any]:
    """One run as a row; what a failed run doesn't have is missing."""
    config, adapter = record["config"], record["config"]["adapter"]
    axes = {axis: config[axis] if axis in adapter["axes"] else None for axis in ("rank", "lr", "alpha")}
    found: dict[str, Any] = {
        "run_id": record["run_id"],
        "state": record["state"],
        "reason": (record["error"] or {}).get("message"),
        "settings": settings(record),
        "task": config["task"]["name"],
        "model": config["model"]["name"],
        "adapter": adapter["name"],
        "target": config["target"]["name"] if "target" in adapter["axes"] else None,
        "seed": config["seed"],
        **axes,
    }
    if record["state"] != "done":
        return found
    parameters = record["parameters"]
    return found | {
        "scaling": record["scaling"],
        "body_trained": parameters["adapter_trained"] + parameters["other_trained"],
        **{key: parameters[key] for key in ("trained", "head_trained", "adapter_frozen", "total")},
        **_scores(record),
        "train_seconds": record["time"]["train_seconds"],
        "run_seconds": record["time"]["run_seconds"],
        "saved_for_backward_bytes": record["memory"]["saved_for_backward_bytes"],
        "precision": record["memory"]["precision"],
        "device": record["provenance"]["device"]["name"],
        "git_revision": record["provenance"]["git_revision"],
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
    }


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
    """All runs under `results_dir/runs`, sorted by task, model, adapter, rank, target and seed."""
    frame = pd.DataFrame([own for record in read_all(results_dir) for own in rows(record)], columns=COLUMNS)
    frame = frame.astype({"rank": "Int64", "trained_rank": "Int64", "seed": "Int64"})
    keys = ["task", "model", "adapter", "rank", "target", "seed", "run_id"]
    return frame.sort_values(keys, na_position="first", ignore_index=True)
