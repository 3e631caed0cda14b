"""Whether a task's metrics can score its rows, asked before anything is trained."""

from typing import Any

from src.config.schema import TaskConfig
from src.errors import UserError, nearest_first
from src.metrics import (
    ASKS_A_JUDGE,
    OF_CLASSES,
    OF_NUMBERS,
    OF_TWO_CLASSES,
    RUNS_CODE,
    TAKES_REFERENCES,
    metric_names,
    score,
)

ALONE = (*RUNS_CODE, *ASKS_A_JUDGE)  # a task's metric, and none beside it
LONGEST = 300  # characters of a metric's message


def check_metrics(task: TaskConfig, rows: list[dict[str, Any]], labels: int) -> None:
    """Refuse metrics that take other things than the rows hold.

    Args:
        rows: the items that are scored.
        labels: how many classes there are; 1 for numbers, 0 for texts.

    Raises:
        UserError: a metric doesn't fit.
    """
    allowed, why = _allowed(task, rows, labels)
    more = [name for name in allowed if name not in ALONE]
    asked = [("task.metric", task.metric, allowed), *(("task.more_metrics", name, more) for name in task.more_metrics)]
    for option, name, fitting in asked:
        if name not in fitting:
            shown = f"{option}={name}" if option == "task.metric" else f"{option}=[{name}]"
            raise UserError(
                f"{shown} can't score task={task.name}, {why}.\n"
                f"Allowed: {', '.join(nearest_first(name, fitting)) or 'none'}."
            )


def _allowed(task: TaskConfig, rows: list[dict[str, Any]], labels: int) -> tuple[list[str], str]:
    """The metrics that fit, and what the rows are."""
    if task.architecture == "classifier":
        if labels == 1:
            return list(OF_NUMBERS), "which predicts a number"
        fitting = [name for name in OF_CLASSES if labels == 2 or name not in OF_TWO_CLASSES]
        return fitting, f"which has {labels} classes"
    if any("turns" in row for row in rows):
        return list(ASKS_A_JUDGE), "whose items are conversations"
    # Of one's own data no answer is a program with its tests.
    others = (*OF_CLASSES, *OF_NUMBERS, *ASKS_A_JUDGE, *(RUNS_CODE if task.kind else ()))
    texts = [name for name in metric_names() if name not in others]
    if any(isinstance(row.get("reference"), list) for row in rows):
        return [name for name in texts if name in TAKES_REFERENCES], "whose items have several references"
    return texts, "whose answers are texts"


def unreadable_references(task: TaskConfig, rows: list[dict[str, Any]]) -> list[str]:
    """Score the references as if a model had written them: what isn't right then, no model can get right.

    Returns a sentence where there are some.

    Raises:
        UserError: the metric can't read a reference.
    """
    if task.architecture == "classifier" or task.metric in ALONE:
        return []
    references = [row.get("reference", row["answer"]) for row in rows]
    written = [reference[0] if isinstance(reference, list) else reference for reference in references]
    try:
        items = score(task.metric, written, references, **task.metric_options).items
    except ValueError as error:
        said = str(error)  # which may quote a text of any length
        said = said if len(said) <= LONGEST else f"{said[: LONGEST // 2]} ... {said[-LONGEST // 2 :]}"
        raise UserError(
            f"task.metric={task.metric} can't read a reference of task={task.name}: {said}\n"
            "Name the column that holds them in task.columns.reference, or choose another metric."
        ) from error
    missed = [reference for reference, item in zip(written, items, strict=bool(items)) if item < 1]
    if not missed:
        return []
    return [
        f"task={task.name}: {len(missed):,} of {len(rows):,} references can't be reached: task.metric={task.metric} "
        f"doesn't find '{missed[0][:60]}' equal to itself"
    ]
