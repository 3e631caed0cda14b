"""Metrics as `evaluate.Metric` modules, loaded from their local folder: no hub is asked."""

from pathlib import Path
from typing import Any

from src.errors import UserError, nearest_first

FOLDER = Path(__file__).parent


def known_metrics() -> list[str]:
    """Names of the metrics that have a folder here."""
    return sorted(path.parent.name for path in FOLDER.glob("*/*.py") if path.stem == path.parent.name)


def check_known(name: str) -> None:
    """Make sure that there is a metric of that name.

    Raises:
        UserError: there is none.
    """
    if name not in known_metrics():
        allowed = ", ".join(nearest_first(name, known_metrics()))
        raise UserError(f"task.metric={name} is not known.\nAllowed: {allowed}.")


def score(name: str, predictions: list[Any], references: list[Any]) -> float:
    """The metric's value over all items, in its own unit.

    Raises:
        UserError: there is no metric of that name.
    """
    check_known(name)
    import evaluate

    metric = evaluate.load(str(FOLDER / name), keep_in_memory=True)
    result = metric.compute(predictions=predictions, references=references)
    assert result is not None
    return float(result[name])
