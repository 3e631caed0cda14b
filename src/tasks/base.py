"""What every task gives the runner: three splits of rows, the label names and a fingerprint of the content."""

import hashlib
import importlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.config.memo import kept
from src.config.schema import Config, TaskConfig
from src.errors import UserError, nearest_first
from src.tasks.findings import findings
from src.tasks.made import check_made
from src.tasks.overlap import Overlap, input_text, normalized, overlap_warnings, overlaps
from src.tasks.scorable import check_metrics, unreadable_references
from src.tasks.source import Source
from src.tasks.splitting import stratified

SPLITS = ("train", "validation", "test")
Row = dict[str, Any]


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    A classifier's row is `{"text": str, "label": int}`, with `label` an index into `label_names`, and perhaps
    `text_pair`; with a single label name the label is a number to be predicted. A causal language model's row is
    `{"prompt": str, "answer": str}`, and `reference` where the metric needs another thing than the answer; a
    conversation has `turns` in place of the prompt. `set` names the set where a split is made of several. `notes` are
    what a reader of the scores should know of where the rows come from.
    """

    splits: dict[str, list[Row]]
    label_names: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the SHA-256 of all rows in order."""
        text = json.dumps([self.label_names, self.splits], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class LoadedTask:
    """A task's rows, their fingerprint, how many of them occur more than once, and what else is to be said of them."""

    data: TaskData
    fingerprint: str
    overlaps: dict[str, Overlap]
    findings: list[str]

    def warnings(self, config: Config) -> list[str]:
        """What a reader of the scores should know of the data; validating on the test split is said by its name."""
        name, train = config.task.name, self.data.splits["train"]
        leaks = overlap_warnings(name, self.overlaps, pairs="text_pair" in train[0])
        same = self.data.splits["validation"] is self.data.splits["test"]
        said = [f"task={name}: protocol=paper validates on the test split"] if same else []
        found = [f"task={name}: {finding}" for finding in self.findings]
        return [*self.data.notes, *said, *found, *leaks]


def _decides_data(config: Config) -> tuple[TaskConfig, str, str]:
    return config.task, config.cache_dir, config.protocol


@kept(8, key=_decides_data)
def load_task(config: Config) -> LoadedTask:
    """Load a run's data, once per process.

    Raises:
        UserError: the task's data can't be had or its options don't fit; from the task's own loader.
    """
    task, source = config.task, Source(config.task, Path(config.cache_dir))
    module, function = task.loader.rsplit(".", 1)
    loaded: TaskData = getattr(importlib.import_module(module), function)(source, **task.options)
    if not isinstance(loaded, TaskData):
        raise UserError(
            f"{task.loader} gives a {type(loaded).__name__}.\nAllowed: TaskData of src.tasks.base (see docs/extend.md)."
        )
    _check_splits(loaded.splits, task)
    check_made(loaded.splits, loaded.label_names, task)
    data = TaskData(_three_splits(loaded.splits, task, config.protocol), loaded.label_names, list(loaded.notes))
    _check_splits(data.splits, task)
    check_metrics(task, data.splits["test"], len(data.label_names))
    if task.kind:  # other tasks' loaders know what their metric reads
        data.notes.extend(unreadable_references(task, data.splits["test"]))
    # Kept beside the data, as to look at all rows takes a while and every run asks for it.
    return LoadedTask(data, data.fingerprint, overlaps(data.splits), findings(data.splits, data.label_names, task))


def _check_splits(splits: dict[str, list[Row]], task: TaskConfig) -> None:
    """Refuse a split that nobody reads, that is missing or without rows, where it can be said of which task it is."""
    missing = [split for split in ("train", "test") if split not in splits]
    if missing:
        raise UserError(f"{task.loader} gives no split {missing[0]}.\nIt gives: {', '.join(splits) or 'none'}.")
    for split, rows in splits.items():
        if split not in SPLITS:
            allowed = ", ".join(nearest_first(split, SPLITS))
            raise UserError(f"{task.loader} gives a split '{split}', which nobody reads.\nAllowed: {allowed}.")
        if not rows:
            remedy = "See task.sources and task.validation_size."
            if task.kind:
                remedy = f"Raise task.split.{split}, or give a file for it; no class gives its last text."
            raise UserError(f"task={task.name} has no rows for {split}.\n{remedy}")


def _three_splits(splits: dict[str, list[Row]], task: TaskConfig, protocol: str) -> dict[str, list[Row]]:
    """Train, validation and test, where a data set may have no validation split of its own.

    Then `protocol` decides: "strict" holds out some training rows, "paper" validates on the test split, as papers do
    that choose a checkpoint or a rate on the set that they report.
    """
    if "validation" in splits:
        return {split: splits[split] for split in SPLITS}
    train, test = splits["train"], splits["test"]
    if protocol == "paper":
        if any("turns" in row for row in test):
            raise UserError(
                f"task={task.name} has no answers in its test split to validate on.\nAllowed: protocol=strict."
            )
        return {"train": train, "validation": test, "test": test}
    if task.kind and not task.validation_size:
        return _parted(train, stratified(train, task.split.validation, task.split.seed, "validation"), test)
    if not 0 < task.validation_size < len(train):
        raise UserError(
            f"task.validation_size={task.validation_size} can't be held out of {len(train)} training rows.\n"
            f"Allowed: 1 to {len(train) - 1}."
        )
    held_out = set(sorted(range(len(train)), key=lambda index: _sort_key(train[index], index))[: task.validation_size])
    return _parted(train, held_out, test)


def _parted(train: list[Row], held_out: set[int], test: list[Row]) -> dict[str, list[Row]]:
    """Train without the rows that are held out, those as validation, and test."""
    return {
        # Both keep the order of the file: the hash decides on which side a row is, and nothing else.
        "train": [row for index, row in enumerate(train) if index not in held_out],
        "validation": [train[index] for index in sorted(held_out)],
        "test": test,
    }


def _sort_key(row: Row, index: int) -> tuple[bytes, int]:
    """The row's place in an order that depends on its input text alone, so that equal texts stay together."""
    return hashlib.sha256(f"validation {normalized(input_text(row))}".encode()).digest(), index
