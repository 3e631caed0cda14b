"""A run's stored predictions, and whether an export gives them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from src.config.checks import LOSS
from src.errors import UserError
from src.exporting.reproduction import Reproduction, is_same
from src.results.store import PREDICTIONS
from src.running.prepare import Prepared
from src.tasks.base import Row

ITEMS = 64  # of each set of each split, of which a classifier's predictions are compared
TEXT_ITEMS = 8  # the same where they are texts, each of which is written anew
ROUNDED_SHARE = 0.9  # of the predictions that must be the stored ones where an export rounds otherwise than its run


@dataclass(frozen=True)
class Stored:
    """The rows that are compared, by split, and what the run predicted of them."""

    rows: dict[str, list[Row]]
    predictions: dict[str, list[Any]]


def stored_predictions(run: Path, prepared: Prepared) -> Stored:
    """The first items of each set of each split that the run scored; texts that were drawn can't be made again.

    Raises:
        UserError: the predictions aren't there, or the task's rows aren't those that were scored.
    """
    if not (run / PREDICTIONS).exists():
        raise UserError(f"{run} has no {PREDICTIONS}, with which an export is compared.\nMake the run again.")
    table, task = pd.read_parquet(run / PREDICTIONS), prepared.config.task
    stored = Stored({}, {})
    for split, items in table.groupby("split", observed=True, sort=False):
        is_loss = split == "validation" and task.validation_metric == LOSS
        if task.temperature > 0 and not is_loss:
            continue
        scored = prepared.scored_rows[str(split)]
        rows = [prepared.task.data.splits[str(split)][index] for index in scored]
        if len(rows) != len(items) or not (is_loss or _same_references(rows, items["reference"].tolist())):
            raise UserError(
                f"{run} was scored on other {split} rows than task={task.name} has now.\n"
                "Its data have changed; an export can't be compared with its predictions."
            )
        chosen = _first_of_each(rows, ITEMS if task.architecture == "classifier" else TEXT_ITEMS)
        stored.rows[str(split)] = [rows[position] for position in chosen]
        kept = items["prediction"].tolist()
        stored.predictions[str(split)] = [kept[position] for position in chosen]
    return stored


def _same_references(rows: list[Row], references: list[Any]) -> bool:
    now = [row["label"] if "label" in row else row.get("reference", row.get("answer")) for row in rows]
    return all(is_same(kept, new, 0.0) for kept, new in zip(references, now, strict=True))


def _first_of_each(rows: list[Row], number: int) -> list[int]:
    """Positions of the first rows of each set that they are made of."""
    sets: dict[str, list[int]] = {}
    for position, row in enumerate(rows):
        sets.setdefault(row.get("set", ""), []).append(position)
    return sorted(position for positions in sets.values() for position in positions[:number])


def check_reproduced(stored: Stored, found: Reproduction, *, rounds: bool) -> dict[str, tuple[int, int, int]]:
    """By split, how many predictions are the stored ones, how many tie with them, and how many there are.

    Args:
        rounds: whether the export may round otherwise than the run did, so that some may turn.

    Raises:
        UserError: more differ than rounding explains.
    """
    counts = {}
    for split, kept in stored.predictions.items():
        same, ties, total = found.equal[split], found.ties[split], len(kept)
        counts[split] = (same, ties, total)
        others = total - same - ties
        if others > (1 + (1 - ROUNDED_SHARE) * total if rounds else 0):
            raise UserError(
                f"The export doesn't predict what the run did: {others} of {total} {split} predictions aren't those "
                "that are stored.\nNothing was written. Try the other format, or export on the machine of the run."
            )
    return counts
