"""All figures of a folder's runs, one of each for every task, model and split."""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from src.analysis.comparison import compare
from src.analysis.doubtful import is_doubtful
from src.analysis.figures.cost import draw_memory_versus_accuracy, draw_parameters_versus_accuracy
from src.analysis.figures.learning_rates import draw_learning_rate_curves
from src.analysis.figures.rank import draw_rank_versus_accuracy
from src.analysis.figures.style import drawing, entitle, metric_of, save, series
from src.analysis.figures.training import draw_training_curves, histories
from src.analysis.trials import trials

OF_CELLS: dict[str, Callable[[pd.DataFrame], Figure | str]] = {
    "rank_versus_accuracy": draw_rank_versus_accuracy,
    "parameters_versus_accuracy": draw_parameters_versus_accuracy,
    "memory_versus_accuracy": draw_memory_versus_accuracy,
}
FIGURES = [*OF_CELLS, "learning_rate_curves", "training_curves"]
LARGEST = 24  # lines of a figure, above which nobody can tell them apart


def save_all(runs: pd.DataFrame, folder: Path) -> tuple[list[Path], list[str]]:
    """Draw every figure of every task and model as PNG and SVG into `folder`, which is made if it isn't there.

    Args:
        runs: the rows of `collect`, at least one.

    Returns:
        The files, and for each figure that wasn't drawn a line that says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cells, files, missing = compare(runs).cells, list[Path](), list[str]()
    groups = list(cells.groupby(["task", "model"], sort=True))
    for (task, model), group_cells in groups:
        group_runs = runs[(runs["task"] == task) & (runs["model"] == model)]
        # A slash in a name would be a folder.
        suffix = "" if len(groups) == 1 else re.sub(r"[^\w.+-]", "_", f"-{task}-{model}")
        for name, draw in _figures(group_runs, group_cells):
            with drawing():
                figure = draw()
                if isinstance(figure, str):
                    missing.append(f"{name}{suffix}: {figure}")
                    continue
                entitle(figure, _title(group_cells))
                files += save(figure, folder / f"{name}{suffix}")
    return files, missing


def _figures(runs: pd.DataFrame, cells: pd.DataFrame) -> Iterator[tuple[str, Callable[[], Figure | str]]]:
    """The name of every figure of one task and model, and the function that draws it."""
    scored = cells[cells["split"] == cells["split"].min()]  # validation only where nothing was scored on test
    for name, draw in OF_CELLS.items():
        yield name, partial(_of_few, scored, draw)
    yield "learning_rate_curves", lambda: draw_learning_rate_curves(trials(runs))
    validation, scale = metric_of(cells.assign(split="validation"))
    yield "training_curves", lambda: draw_training_curves(histories(runs, scored, scale), validation)


def _of_few(cells: pd.DataFrame, draw: Callable[[pd.DataFrame], Figure | str]) -> Figure | str:
    """The figure, or a sentence where it would have too many lines."""
    lines = len(list(series(cells)))
    if lines > LARGEST:
        return f"{lines} lines are too many to tell apart (at most {LARGEST}); the report has filters"
    return draw(cells)


def _title(cells: pd.DataFrame) -> str:
    """The model, the task, and how many seeds are behind a point."""
    counts = sorted(set(cells.loc[cells["n"] > 0, "n"])) or [0]
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    doubtful = sum(is_doubtful(cell) for cell in cells.itertuples())
    also = f", doubtful points: {doubtful} (see the comparison)" if doubtful else ""
    return f"{cells['model'].iloc[0]} on {cells['task'].iloc[0]}, seeds a point: {seeds}{also}"
