"""Metrics as `evaluate.Metric` modules, loaded from their local folder: no hub is asked.

A metric's module defines one class on the base of `src.metrics.base`, which says what a metric is.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.errors import UserError, nearest_first

FOLDER = Path(__file__).parent
RUNS_CODE = ("pass_at_k",)
ASKS_A_JUDGE = ("judge_rating",)
TIMED_OUT = "timed_out"  # the part of a score that is a number of programs which were stopped
# What metrics take, by name, so that it is known without importing them; all others take texts.
OF_CLASSES = ("accuracy", "f1", "matthews_correlation")
OF_TWO_CLASSES = ("f1",)
OF_NUMBERS = ("pearson", "spearman")
TAKES_REFERENCES = ("bleu", "nist", "rouge_1", "rouge_2", "rouge_l", "rouge_l_coco")  # several an item


@dataclass(frozen=True)
class Score:
    """A metric's value over all items, with its name, its direction and its unit.

    `more` has values of its parts; `items` has a number for each item where the metric is their mean, else it is empty.
    `undefined` says that the value stands for one that can't be computed, as a correlation with a constant.
    """

    name: str
    value: float
    higher_is_better: bool = True
    unit: str = "share"
    more: dict[str, float] = field(default_factory=dict)
    items: list[float] = field(default_factory=list)
    undefined: bool = False


def metric_names() -> list[str]:
    """Names of the metrics that have a folder here."""
    return sorted(path.parent.name for path in FOLDER.glob("*/*.py") if path.stem == path.parent.name)


def check_metric(name: str) -> None:
    """Make sure that there is a metric of that name.

    Raises:
        UserError: there is none.
    """
    if name not in metric_names():
        allowed = ", ".join(nearest_first(name, metric_names()))
        raise UserError(f"task.metric={name} is not known.\nAllowed: {allowed}.")


def score(name: str, predictions: list[Any], references: list[Any], **options: Any) -> Score:
    """Score all items with a metric; `options` are its own, such as pass_at_k's `k`.

    Raises:
        UserError: there is no metric of that name.
        TypeError: the folder of that name has something else.
    """
    check_metric(name)
    from src.metrics.base import ITEMS, UNDEFINED, metric_in  # heavy, and names are checked without

    # As `evaluate.load` would, but without copying the module into the home directory, which may not be there.
    metric = metric_in(FOLDER / name / f"{name}.py")(keep_in_memory=True)
    result = metric.compute(predictions=predictions, references=references, **options)
    assert result is not None
    items, undefined = result.pop(ITEMS, []), result.pop(UNDEFINED, False)
    return Score(
        name,
        float(result[name]),
        higher_is_better=metric.higher_is_better,
        unit=metric.unit,
        more={part: float(value) for part, value in result.items() if part != name},
        items=items,
        undefined=undefined,
    )
