"""What every task gives the runner: three splits of rows, the label names and a fingerprint of the content."""

import hashlib
import importlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from src.config import TaskConfig

SPLITS = ("train", "validation", "test")
Row = dict[str, Any]


@dataclass(frozen=True)
class TaskData:
    """The rows of a task.

    A classifier's row is `{"text": str, "label": int}`, with `label` an index into `label_names`; a causal
    language model's is `{"prompt": str, "answer": str}`.
    """

    splits: dict[str, list[Row]]
    label_names: list[str]

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of the SHA-256 of all rows in order."""
        text = json.dumps([self.label_names, self.splits], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_task(task: TaskConfig, cache_dir: str) -> tuple[TaskData, str]:
    """Load a task's rows and their fingerprint, once per process.

    Raises:
        UserError: the task's data can't be had or its options don't fit; from the task's own loader.
    """
    return _load(task.loader, json.dumps(task.options, sort_keys=True), cache_dir)


@lru_cache(maxsize=8)
def _load(loader: str, options: str, cache_dir: str) -> tuple[TaskData, str]:
    module, function = loader.rsplit(".", 1)
    data = getattr(importlib.import_module(module), function)(Path(cache_dir), **json.loads(options))
    return data, data.fingerprint
