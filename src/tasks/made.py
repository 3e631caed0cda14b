"""Whether what a loader made are a task's rows: asked before anything is trained, and answered with the row.

Of a label that is no class torch would say that a target is out of bounds, or leave the row out of the loss (-100).
"""

import math
from typing import Any

from src.config.schema import TaskConfig
from src.errors import UserError


def check_made(splits: dict[str, list[dict[str, Any]]], label_names: list[str], task: TaskConfig) -> None:
    """Refuse rows without what the task's architecture needs.

    Raises:
        UserError: with the first row of which something is missing or another thing than it should be.
    """
    for split, rows in splits.items():
        paired = "text_pair" in splits["train"][0]
        for number, row in enumerate(rows):
            fault = _of_classes(row, label_names, paired) if task.architecture == "classifier" else _of_texts(row)
            if fault:
                raise UserError(f"{task.loader} gives {split} row {number} {fault}.")


def _of_classes(row: dict[str, Any], label_names: list[str], paired: bool) -> str | None:
    """What is wrong with a row of a classifier."""
    for key in ("text", "text_pair") if paired else ("text",):
        if not isinstance(row.get(key), str):
            return f"without a text in '{key}'"
    if not paired and "text_pair" in row:
        return "a 'text_pair', which the first training row doesn't have"
    label = row.get("label")
    if len(label_names) == 1:
        is_number = isinstance(label, int | float) and math.isfinite(label)
        return None if is_number else f"the label {label!r}, which is no finite number"
    if isinstance(label, int) and 0 <= label < len(label_names):
        return None
    return f"the label {label!r}.\nAllowed: 0 to {len(label_names) - 1}, the places in its label_names"


def _of_texts(row: dict[str, Any]) -> str | None:
    """What is wrong with a row of a model that writes; a conversation has turns in place of a prompt."""
    keys = [key for key in ("prompt", "answer") if key in row or "turns" not in row]
    wrong = next((key for key in keys if not isinstance(row.get(key), str)), None)
    return wrong and f"without a text in '{wrong}'"
