"""What a run's items say, read from its task's data again: predictions are stored without the texts."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from src.analysis.tidy import Texts
from src.errors import UserError
from src.results.store import read_record
from src.results.stored_run import config_of
from src.tasks.base import Row, load_task
from src.tasks.overlap import input_text


def item_texts(folder: Path) -> Texts:
    """The texts of the items that a run scored, and the names of the classes.

    Args:
        folder: a finished run's.

    Raises:
        UserError: there is no such run, or its task's rows can't be had or are others now.
    """
    record = read_record(folder)
    if record is None:
        raise UserError(f"{folder} has no record.\nName the folder of a finished run.")
    config = config_of(record)
    with redirect_stdout(sys.stderr):  # a loader may tell that it takes a while, which isn't what was asked for
        loaded = load_task(config)
    scored_on = record["identity"]["task"].get("fingerprint")
    if loaded.fingerprint != scored_on:
        raise UserError(
            f"task={config.task.name} has other rows now ({loaded.fingerprint}) than {folder.name} was scored on "
            f"({scored_on}).\nLoad the sweep without texts, or make the runs again."
        )
    splits, limit = loaded.data.splits, config.trainer.eval_limit
    texts = {split: [input_text(row) for row in scored_rows(splits[split], limit)] for split in ("validation", "test")}
    return Texts(texts, loaded.data.label_names)


def scored_rows(rows: list[Row], limit: int | None) -> list[Row]:
    """The rows that are scored: of each set of a split the first so many, all where there is no limit."""
    if limit is None:
        return rows
    counts: dict[str, int] = {}
    scored = []
    for row in rows:
        name = row.get("set", "")
        counts[name] = counts.get(name, 0) + 1
        scored += [row] if counts[name] <= limit else []
    return scored
