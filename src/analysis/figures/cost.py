"""What a method costs versus its accuracy, with the noise-aware Pareto front: in parameters, and in memory."""

import math
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from src.analysis.figures.style import (
    Drawing,
    NothingToDrawError,
    below,
    finish,
    focus,
    interval_ends,
    log_scale,
    metric_of,
    panels,
    series,
)

MEGABYTE = 1e6
LARGEST = 24  # lines of a figure, above which nobody can tell them apart


def draw_parameters_versus_accuracy(cells: pd.DataFrame) -> Drawing:
    """Score over trained parameters, the head included.

    Args:
        cells: those of one task, model and split, with `on_front`.

    Raises:
        NothingToDrawError: no scored cell has a count.
    """
    figure = _versus_accuracy(cells, "trained", 1.0, "trained parameters with the head", mark_front=True)
    log_scale(figure.axes[0])
    return figure


def draw_memory_versus_accuracy(cells: pd.DataFrame) -> Drawing:
    """Score over the memory that training takes beside the weights.

    Args:
        cells: those of one task, model and split, with `memory_bytes` and what it counts in `memory_kind`.

    Raises:
        NothingToDrawError: no scored cell has its memory, or it was measured in several ways.
    """
    kinds = sorted(cells["memory_kind"].dropna().unique())
    if len(kinds) > 1:
        raise NothingToDrawError(
            f"memory was measured in several ways, which can't share an axis: {' and '.join(kinds)}"
        )
    return _versus_accuracy(cells, "memory_bytes", MEGABYTE, f"memory in MB, {''.join(kinds)}", mark_front=False)


def _versus_accuracy(cells: pd.DataFrame, cost: str, unit: float, label: str, *, mark_front: bool) -> Drawing:
    """Score over a cost, a column of the cells, divided by its unit; hollow points are off the Pareto front."""
    drawn = cells.dropna(subset=["mean", cost])
    if drawn.empty:
        raise NothingToDrawError(f"no scored run has its {cost}")
    figure, (axes,) = panels(1)
    y, scale = metric_of(drawn)
    lines = list(series(drawn))
    if len(lines) > LARGEST:
        raise NothingToDrawError(
            f"{len(lines)} lines are too many to tell apart (at most {LARGEST}); the report has filters"
        )
    for _, look, line in lines:
        x, score, (low, high) = line[cost].astype(float) / unit, scale * line["mean"], interval_ends(line, scale)
        # Ends relative to the score: that is what Matplotlib takes for an asymmetric bar.
        axes.errorbar(x, score, yerr=[score - low, high - score], color=look["color"], fmt="none", elinewidth=0.6)
        axes.plot(x, score, color=look["color"], linestyle=look["linestyle"], linewidth=0.8)
        # The area of a marker says the rank, on a log scale as ranks are usually doubled.
        sizes = [9 + 5 * (0 if pd.isna(rank) else math.log2(rank)) for rank in line["rank"]]
        filled: list[Any] = [look["color"] if on or not mark_front else "white" for on in line["on_front"]]
        axes.scatter(x, score, s=sizes, marker=look["marker"], c=filled, edgecolors=look["color"], linewidths=0.8,
                     zorder=3)  # fmt: skip
    outside = focus(axes, scale * drawn["mean"], intervals=interval_ends(drawn, scale))
    finish(axes, label, y)
    handles = [Line2D([], [], linewidth=0.8, **look) for _, look, _ in lines]
    caption = _caption(drawn, outside, mark_front=mark_front)
    below(figure, caption, handles, [name for name, _, _ in lines])
    return figure


def _caption(drawn: pd.DataFrame, outside: str, *, mark_front: bool) -> str:
    """What the marks mean, those that are there, and how many points aren't shown."""
    parts = ["Bar: 95 % interval."]
    parts += ["Larger: higher rank."] if drawn["rank"].nunique() > 1 else []
    parts += ["Hollow: off the Pareto front."] if mark_front and not drawn["on_front"].all() else []
    return " ".join([*parts, *([f"{outside[0].upper()}{outside[1:]}."] if outside else [])])
