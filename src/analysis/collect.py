"""Run records as one tidy table: a row a run, a column a fact.

A method that trains all smaller ranks together with the largest has a row for each of them too: `rank` is the row's,
`trained_rank` the run's. `settings` is what two runs must share to be comparable; `body_trained` is everything
trained but the head, which all methods share. A run without a usable record is a row as well, with its `state` and the
`reason`: nothing that lies in the folder is left out.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pandas as pd

from src.errors import UserError
from src.files import read_json
from src.results.equivalences import equal_codes, read_equivalences
from src.results.schema import Memory, Record, misfit
from src.results.store import CONFIG, read_record, run_folders

COLUMNS = [
    "folder", "run_id", "state", "reason", "trial", "settings", "task", "model", "adapter", "rank",
    "trained_rank", "target", "seed", "lr", "alpha", "scaling", "protocol", "tuning", "look_seeds", "trained",
    "body_trained", "head_trained", "adapter_frozen", "total", "validation", "test", "validation_metric",
    "validation_unit", "validation_higher_is_better", "metric", "unit", "higher_is_better", "fingerprint",
    "evaluated_items", "train_rows", "secondary", "forgetting", "forgetting_bits", "general_text", "train_seconds",
    "run_seconds", "tokens_per_second", "memory_bytes", "memory_kind", "batch_size", "precision", "device", "torch",
    "python", "git_revision", "method_code", "shared_code", "versions", "hardware", "history", "warnings", "flags",
]  # fmt: skip
# What the columns hold; all but the names may be missing. The others are of types that `read_record` has checked.
NAMES = ["run_id", "state", "task", "model", "adapter"]
TEXTS = ["reason", "target", "protocol", "validation_metric", "validation_unit", "metric", "unit", "fingerprint",
         "general_text", "memory_kind", "precision", "device", "torch", "python", "git_revision"]  # fmt: skip
COUNTS = ["rank", "trained_rank", "seed", "trained", "body_trained", "head_trained", "adapter_frozen", "total",
          "evaluated_items", "train_rows", "memory_bytes", "batch_size", "look_seeds"]  # fmt: skip
NUMBERS = ["lr", "alpha", "scaling", "validation", "test", "forgetting", "forgetting_bits", "train_seconds",
           "run_seconds"]  # fmt: skip
MEMORY_KINDS = {"peak_allocated_bytes": "peak allocated on the GPU", "saved_for_backward_bytes": "saved for backward"}
UNREADABLE, UNFINISHED = "unreadable", "not finished"
AXES = ("rank", "lr", "alpha")
DECISIVE_PACKAGES = ("torch", "transformers", "tokenizers", "numpy")  # whose versions can move a score


def collect(results_dir: Path) -> pd.DataFrame:
    """All runs under `results_dir/runs`, sorted by task, model, adapter, rank, target and seed.

    Returns:
        A row for each run and for each smaller rank within it, with the columns `COLUMNS`; empty where there are no
        runs. Scores are in the unit that the row names, times in seconds, memory in bytes.

    Raises:
        UserError: `results/equivalences.yaml` is damaged, or calls codes equal without proof.
    """
    read_equivalences()  # here, as within a row it would make every record unreadable
    rows = [row for folder in run_folders(results_dir) for row in rows_of_folder(folder)]
    _take_common_code(rows)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    # Nullable types: a method without a rank and an unreadable run have missing values here, and stay rows.
    frame = frame.astype({"rank": "Int64", "trained_rank": "Int64", "seed": "Int64", "trial": "boolean"})
    # The run id comes last, so that rows that are equal in all else have one order too.
    keys = ["task", "model", "adapter", "rank", "target", "seed", "run_id"]
    return frame.sort_values(keys, na_position="first", ignore_index=True)


def _take_common_code(rows: list[dict[str, Any]]) -> None:
    """Give rows of a task and model the newest code that all of them are proven equal to, where there is one."""
    groups: dict[tuple[Any, Any], list[dict[str, Any]]] = {}
    for row in rows:
        if "equal_codes" in row:
            groups.setdefault((row["task"], row["model"]), []).append(row)
    for group in groups.values():
        common = set.intersection(*(set(row["equal_codes"]) for row in group))
        if newest := [name for name in group[0]["equal_codes"] if name in common][-1:]:
            for row in group:
                row["shared_code"] = newest[0]


def rows_of_folder(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's folder; a record that is missing, damaged or incomplete gives one that says so."""
    try:
        record = read_record(folder)
        if record is None:
            return [_without_record(folder, UNFINISHED, "it has no record yet: under way, or cut off")]
        rows = rows_of_record(record)
        for row in rows:
            _check_columns(row)
        return [row | {"folder": folder} for row in rows]
    # A record may be damaged in any way; whatever is wrong with one, the other runs must still be read.
    except Exception as error:
        missing = f"its record lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).splitlines())
        return [_without_record(folder, UNREADABLE, missing or type(error).__name__)]


def _without_record(folder: Path, state: str, reason: str) -> dict[str, Any]:
    """A row for a run without a usable record: from its config, or else from its path, runs/<task>/<model>/<run>."""
    run_id, (task, model) = _shown(folder.name), map(_shown, folder.absolute().parts[-3:-1])
    facts = {"run_id": run_id, "state": state, "reason": f"{run_id}: {_shown(reason)}"}
    try:
        row = _asked(read_json(folder / CONFIG)) | facts
        _check_columns(row)
    # A config that is missing or damaged, in whatever way, leaves what the path says.
    except Exception:
        row = {"task": task, "model": model, "adapter": run_id.partition("-")[0], **facts}
    return row | {"folder": folder}


def _shown(name: str) -> str:
    """A name that every file can be written with; a folder's may have bytes that are no text."""
    return name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def _check_columns(row: dict[str, Any]) -> None:
    """Refuse a row that no table can have: a text for a number, a number beyond 64 bits, a name of no characters.

    Raises:
        ValueError: a column holds something else than it is for.
    """
    kinds = dict.fromkeys(TEXTS, str | None) | dict.fromkeys(COUNTS, int | None) | dict.fromkeys(NUMBERS, float | None)
    kinds |= dict.fromkeys(NAMES, str)
    wrong = [text for column, kind in kinds.items() if (text := misfit(row.get(column), kind, column))]
    # A line break or a control character in a name would be one in a file's name or an image.
    wrong += [f"{name} is {row[name]!r}" for name in (*NAMES, "target") if not str(row.get(name)).isprintable()]
    if any("step" not in point for point in row.get("history", [])):
        wrong.append("history has a point without its step")
    if wrong:
        raise ValueError(f"its {wrong[0]}")


def rows_of_record(record: Record) -> list[dict[str, Any]]:
    """The run's row, and before it those of the smaller ranks that came of the same training."""
    row = row_of_record(record)
    smaller = record.get("smaller_ranks", [])
    if smaller:
        row["trained_rank"] = row["rank"]
    smaller_rows = []
    for scores in smaller:
        # Only the adapter shrinks with the rank; the head and what is trained beside the adapter stay as they are.
        fewer = row["body_trained"] - scores["adapter_trained"] - record["parameters"]["other_trained"]
        smaller_rows.append(
            row
            | {split: scores[split] for split in record["metrics"]}
            | {"rank": scores["rank"], "body_trained": row["body_trained"] - fewer, "trained": row["trained"] - fewer}
            | {"secondary": {}}  # how likely the answers are is asked of the largest rank alone
        )
    return [*smaller_rows, row]


def row_of_record(record: Record) -> dict[str, Any]:
    """One run as a row; values that only a finished run has are missing from others."""
    is_done = record["state"] == "done"
    facts: dict[str, Any] = {
        "run_id": record["run_id"],
        "state": record["state"],
        "reason": (record["error"] or {}).get("message", None if is_done else "its record gives no reason"),
        "settings": settings(record["identity"]),
        "fingerprint": record["identity"]["task"].get("fingerprint"),
        **_asked(record["config"]),
    }
    return facts | _results(record) if is_done else facts


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
    """What a finished run has."""
    parameters, time, forgetting = record["parameters"], record["time"], record.get("forgetting")
    bits = forgetting and forgetting.get("bits_per_byte")
    return {
        "scaling": record["scaling"],
        "tuning": record.get("tuning"),
        "look_seeds": record.get("look_seeds"),
        "body_trained": parameters["adapter_trained"] + parameters["other_trained"],
        **{key: parameters[key] for key in ("trained", "head_trained", "adapter_frozen", "total")},
        **_scores(record),
        "train_rows": record.get("data", {}).get("rows", {}).get("train"),
        "secondary": {
            split: metric["secondary"] for split, metric in record["metrics"].items() if "secondary" in metric
        },
        "forgetting": forgetting and forgetting["after"] - forgetting["before"],
        "forgetting_bits": bits and bits["after"] - bits["before"],
        "general_text": forgetting and f"{forgetting.get('text')} ({forgetting.get('fingerprint')})",
        **{key: time.get(key) for key in ("train_seconds", "run_seconds", "tokens_per_second")},
        **_memory(record["memory"]),
        "device": record["provenance"]["device"]["name"],
        "torch": record["provenance"].get("packages", {}).get("torch"),
        "python": record["provenance"].get("python"),
        "git_revision": record["provenance"]["git_revision"],
        **_made_with(record),
        "history": record.get("history", []),
        "warnings": record.get("warnings", []),
        "flags": record.get("flags", []),
    }


def _made_with(record: Record) -> dict[str, Any]:
    """What else moves a result: the method's code and all runs' code, the packages' versions, the hardware."""
    made, packages = record["provenance"], record["provenance"]["packages"]
    equal = equal_codes(made["code"])
    code: dict[str, Any] = {**_code(equal[-1]), "equal_codes": [_code(one)["shared_code"] for one in equal]}
    if record["identity"]["adapter"].get("config"):  # the method is another library's
        code["method_code"] += f", peft {packages.get('peft', 'unknown')}"
    if "quantization" in record["identity"]:
        code["method_code"] += f", bitsandbytes {packages.get('bitsandbytes', 'unknown')}"
    return {
        **code,
        "versions": ", ".join(f"{name} {packages.get(name, 'unknown')}" for name in DECISIVE_PACKAGES),
        "hardware": f"{made['device']['name']}, {record['memory']['precision']}",
    }


def _code(code: dict[str, str]) -> dict[str, str]:
    """Short names for the method's code and for the rest; of a record from before fingerprints, the revision."""
    if "revision" in code:
        return dict.fromkeys(("method_code", "shared_code"), f"revision {code['revision'][:8]}")
    shared = "".join(code[part] for part in ("loader", "metrics", "training"))
    return {"method_code": code["method"][:8], "shared_code": hashlib.sha256(shared.encode()).hexdigest()[:8]}


def _scores(record: Record) -> dict[str, Any]:
    """The values of the splits that were scored, and what they are; records without a unit hold shares."""
    metrics = record["metrics"]
    # Trials have no test score: their columns of the test metric repeat that of validation.
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


def _memory(memory: Memory) -> dict[str, Any]:
    """The bytes that training took and what they count: the GPU's peak, or on a CPU what is kept for backward."""
    values: dict[str, Any] = dict(memory)
    kind = next(key for key in MEMORY_KINDS if values.get(key) is not None)
    facts = {"memory_bytes": values[kind], "memory_kind": MEMORY_KINDS[kind]}
    return facts | {key: values.get(key) for key in ("precision", "batch_size")}


def settings(identity: dict[str, Any]) -> dict[str, str]:
    """All that determines a result but seed, axes and code, flat: `{"trainer.head_lr": "0.3", ...}`.

    Values are JSON, so that they can be compared as texts and shown to people as they are.
    """
    flat: dict[str, str] = {}
    for part in ("model", "task", "trainer"):
        flat |= {f"{part}.{key}": json.dumps(value, sort_keys=True) for key, value in identity[part].items()}
    # These stand in an identity only where they aren't the default.
    flat |= {key: identity[key] for key in ("quantization", "protocol") if key in identity}
    flat |= {"target.roles": json.dumps(identity["target"])} if "target" in identity else {}
    adapter = identity["adapter"]
    of_adapter = {f"adapter.{key}": adapter[key] for key in ("method", "version", "roles", "config") if key in adapter}
    of_adapter |= {f"adapter.options.{key}": value for key, value in adapter["options"].items()}
    return flat | {key: json.dumps(value, sort_keys=True) for key, value in of_adapter.items()}


def runs_in(results_dir: Path) -> pd.DataFrame:
    """The runs under a results folder, a row each with the columns `COLUMNS`.

    Raises:
        UserError: it holds none, or a record's code is called equal to another's without proof.
    """
    frame = collect(results_dir)
    if frame.empty:
        raise UserError(
            f"{results_dir} holds no runs.\nMake some with `python -m src.run`, or name a folder with results_dir=..."
        )
    return frame
