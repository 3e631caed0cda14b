"""Repeat a run from its record alone, and compare what comes out bit for bit with what was stored."""

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from src.config.schema import Config
from src.errors import UserError
from src.results.code import Code
from src.results.digests import digest, prediction_digests
from src.results.equivalences import Proof, canonical
from src.results.identity import Inputs
from src.results.schema import Record
from src.results.store import PREDICTIONS, read_record
from src.results.stored_run import config_of
from src.running.inputs import inputs_of

# Compared where both records have it; a record from before digests of tensors has none.
COMPARED = ("tensors", "predictions", "history", "metrics", "parameters", "smaller_ranks", "forgetting")
GROWING = ("metrics", "forgetting")  # what more is measured of them later is no difference
PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "peft")


@dataclass(frozen=True)
class Repetition:
    """A run, and what its repetition with the present code gave.

    `equal` has how many values of each kind are the same bits, `different` the names of those that aren't, `made_with`
    what the two were made with otherwise: code, versions, hardware.
    """

    folder: Path
    method: str
    task: str
    older: Code
    newer: Code
    equal: dict[str, int] = field(default_factory=dict)
    different: dict[str, list[str]] = field(default_factory=dict)
    made_with: list[str] = field(default_factory=list)
    proof: Proof | None = None

    @property
    def is_same(self) -> bool:
        """Whether every value that was compared is the same, bit for bit."""
        return not self.different

    @property
    def is_proof(self) -> bool:
        """Whether it shows two codes to be equal: tensors and predictions were compared and are the same."""
        return self.is_same and self.proof is not None and canonical(self.newer) != canonical(self.older)


def repeat(folder: Path) -> Repetition:
    """Do a finished run again in a folder of its own and compare.

    Raises:
        UserError: the folder has no finished run, or its data or model can't be had as they were.
    """
    record = _finished(folder)
    config = _config(record)
    inputs = inputs_of(config)
    _check_inputs(folder, record, inputs)
    with tempfile.TemporaryDirectory() as scratch:
        from src.running.execute import execute

        again = execute(replace(config, results_dir=scratch), Path(scratch), lambda step, metrics: None)
        stored = _values(record, folder)
        repeated = _values(_as_much_as(record, again), Path(scratch), _columns(folder))
    if _text(record) != _text(again):  # pydoc's differs from one Python to the next
        stored.pop("forgetting", None)
    return Repetition(
        folder=folder,
        method=record["identity"]["adapter"]["method"],
        task=config.task.name,
        older=record["provenance"]["code"],
        newer=inputs.code,
        equal=_equal(record, stored, repeated),
        different=_different(stored, repeated),
        made_with=_made_with(record, again),
        proof=_proof(folder, record, stored),
    )


def _finished(folder: Path) -> Record:
    record = read_record(folder) if folder.is_dir() else None
    if record is None or record["state"] != "done":
        state = f"ended as {record['state']}" if record else "has no record"
        raise UserError(f"{folder} {state}: only a finished run can be verified.\nName one: .../runs/TASK/MODEL/RUN.")
    return record


def _config(record: Record) -> Config:
    """The run's config, in the precision that it was made in, as `auto` may be another one here."""
    config = config_of(record)
    # The identity has what `auto` came to.
    precision = record["identity"]["trainer"]["precision"]
    return replace(config, trainer=replace(config.trainer, precision=precision))


def _check_inputs(folder: Path, record: Record, inputs: Inputs) -> None:
    """Refuse a run whose data or model isn't there any more: another one would prove nothing."""
    task, model = record["identity"]["task"], record["identity"]["model"]
    if task["fingerprint"] != inputs.data:
        raise UserError(
            f"{folder} was made on the rows {task['fingerprint']}; here task={task['name']} has {inputs.data}.\n"
            "Verify it where the task's files and libraries are those that its record names under provenance."
        )
    for kind, stored in model["files"].items():
        if stored is not None and stored != inputs.model_files.get(kind):
            raise UserError(
                f"{folder} was made with another {kind}: {stored}, here {inputs.model_files.get(kind)}.\n"
                "Give the model's folder as it was, with model.path in the record's config."
            )


def _as_much_as(record: Record, again: Record) -> Record:
    """The repetition's record without what is measured today and wasn't when the other was made."""
    both: Any = {kind: _only_keys(again.get(kind), record.get(kind)) for kind in GROWING if kind in record}
    return {**again, **both}


def _only_keys(value: Any, of: Any) -> Any:
    """A value without the keys that another one lacks, at any depth."""
    if not (isinstance(value, dict) and isinstance(of, dict)):
        return value
    return {key: _only_keys(part, of[key]) for key, part in value.items() if key in of}


def _columns(folder: Path) -> set[str] | None:
    """The columns of a run's predictions, where there are some."""
    path = folder / PREDICTIONS
    return set(pq.read_schema(path).names) if path.exists() else None


def _values(record: Record, folder: Path, columns: set[str] | None = None) -> dict[str, dict[str, str]]:
    """By kind and name, digests of all that is compared; of predictions the columns named, by default all."""
    values: dict[str, Any] = {kind: record[kind] for kind in COMPARED if kind in record}  # type: ignore[literal-required]
    if (folder / PREDICTIONS).exists():
        values["predictions"] = prediction_digests(folder / PREDICTIONS, columns)
    # Lists by position, so that all kinds are compared in one way.
    for kind in ("history", "smaller_ranks"):
        values[kind] = {str(number): point for number, point in enumerate(values.get(kind, []))}
    return {kind: {name: digest(value) for name, value in named.items()} for kind, named in values.items() if named}


def _text(record: Record) -> str | None:
    """The fingerprint of the text on which forgetting was measured."""
    return record["forgetting"]["fingerprint"] if "forgetting" in record else None


def _equal(record: Record, stored: dict[str, dict[str, str]], repeated: dict[str, dict[str, str]]) -> dict[str, int]:
    """By kind how many of the stored values came out the same; of predictions each item counts."""
    same = {kind: [name for name, value in values.items() if repeated.get(kind, {}).get(name) == value]
            for kind, values in stored.items()}  # fmt: skip
    items = {split: metric["n"] for split, metric in record["metrics"].items()}
    return {
        kind: sum(items[name] for name in same[kind]) if kind == "predictions" else len(same[kind])
        for kind in COMPARED
        if kind in same
    }


def _different(stored: dict[str, dict[str, str]], repeated: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """By kind the names whose values differ or are in one alone, of the kinds that the stored run has."""
    names = {
        kind: sorted(key for key, _ in values.items() ^ repeated.get(kind, {}).items())
        for kind, values in stored.items()
    }
    return {kind: list(dict.fromkeys(keys)) for kind, keys in names.items() if keys}


def _made_with(record: Record, again: Record) -> list[str]:
    """What the two runs were made with otherwise, as in "torch 2.13.0 (here 2.14.0)"."""
    stored, here = record["provenance"], again["provenance"]
    older, newer = canonical(stored["code"]), canonical(here["code"])
    parts = sorted(part for part in newer if older.get(part) != newer[part])
    texts = []
    if "revision" in older and older != newer:
        texts.append(f"code of revision {older['revision'][:8]}")
    elif parts:
        texts.append(f"code of {', '.join(parts)}")
    # A change that isn't committed is in no revision, so it is named as well.
    if stored.get("git_diff") and older != newer:
        texts.append(f"uncommitted changes to revision {(stored['git_revision'] or '')[:8]}, which its record has")
    for name in PACKAGES:
        versions = [made["packages"].get(name) for made in (stored, here)]
        texts += [f"{name} {versions[0]} (here {versions[1]})"] if versions[0] != versions[1] else []
    devices = [f"{made['device']['name']}, {made['device']['precision']}" for made in (stored, here)]
    return texts + ([f"{devices[0]} (here {devices[1]})"] if devices[0] != devices[1] else [])


def _proof(folder: Path, record: Record, stored: dict[str, dict[str, str]]) -> Proof | None:
    """What stands behind an equality; None where the record has no tensors or predictions to compare with."""
    if not (stored.get("tensors") and stored.get("predictions")):
        return None
    return {"run": record["run_id"], "tensors": digest(stored["tensors"]), "predictions": digest(stored["predictions"])}
