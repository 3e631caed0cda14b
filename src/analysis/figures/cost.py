"""What a method costs versus its accuracy, with the noise-aware Pareto front: in parameters, and in memory."""

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from src.analysis.figures.style import finish, focus, interval_ends, legend_below, metric_of, panels, series

MEGABYTE = 1e6


def draw_parameters_versus_accuracy(cells: pd.DataFrame) -> Figure | str:
    """Score over trained parameters, the head included; a sentence where there is nothing to draw.

    Args:
        cells: those of one task, model and split, with `on_front`.
    """
    figure = _versus_accuracy(cells, "trained", 1.0, "trained parameters with the head", mark_front=True)
    if isinstance(figure, Figure):
        figure.axes[0].set_xscale("log")
    return figure


def draw_memory_versus_accuracy(cells: pd.DataFrame) -> Figure | str:
    """Score over the memory that training takes beside the weights; a sentence where there is nothing to draw.

    Args:
        cells: those of one task, model and split, with `memory_bytes` and what it counts in `memory_kind`.
    """
    kinds = sorted(cells["memory_kind"].dropna().unique())
    if len(kinds) > 1:
        return f"memory was measured in several ways, which can't share an axis: {' and '.join(kinds)}"
    return _versus_accuracy(cells, "memory_bytes", MEGABYTE, f"memory in MB, {''.join(kinds)}", mark_front=False)


def _versus_accuracy(cells: pd.DataFrame, cost: str, unit: float, label: str, *, mark_front: bool) -> Figure | str:
    """Score over a cost, a column of the cells, divided by its unit; hollow points are off the Pareto front."""
    drawn = cells.dropna(subset=["mean", cost])
    if drawn.empty:
        return f"no scored run has its {cost}"
    figure, (axes,) = panels(1, 1)
    y, scale = metric_of(drawn)
    for name, look, line in series(drawn):
        x, score, (low, high) = line[cost].astype(float) / unit, scale * line["mean"], interval_ends(line, scale)
        # Ends relative to the score: that is what Matplotlib takes for an asymmetric bar.
        axes.errorbar(x, score, yerr=[score - low, high - score], color=look["color"], fmt="none", elinewidth=0.6)
        axes.plot(x, score, color=look["color"], linestyle=look["linestyle"], linewidth=0.8)
        # The area of a marker says the rank, on a log scale as ranks are usually doubled.
        sizes = [9 + 5 * (0 if pd.isna(rank) else math.log2(rank)) for rank in line["rank"]]
        filled: list[Any] = [look["color"] if on or not mark_front else "white" for on in line["on_front"]]
        axes.scatter(x, score, s=sizes, marker=look["marker"], c=filled, edgecolors=look["color"], linewidths=0.8,
                     label=name, zorder=3)  # fmt: skip
    # What the marks mean is said only where they are there.
    hollow = "hollow: off the Pareto front" if mark_front and not drawn["on_front"].all() else ""
    marks = "; ".join(part for part in (hollow, focus(axes, scale * drawn["mean"])) if part)
    below = f"\n{marks}" if marks else ""
    finish(axes, f"{label}\n(bar: 95 % interval; larger: higher rank{below})", y)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure
