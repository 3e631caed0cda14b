"""What a method costs versus its accuracy, with the noise-aware Pareto front: in parameters, and in memory."""

import math
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from src.analysis.figures.style import finish, focus, legend_below, metric_of, panels, series, spread

MEGABYTE = 1e6


def parameters_versus_accuracy(cells: pd.DataFrame) -> Figure | str:
    """Score over trained parameters, the head included; a sentence where there is nothing to draw."""
    found = _versus_accuracy(cells, "trained", 1.0, "trained parameters with the head", front=True)
    if isinstance(found, Figure):
        found.axes[0].set_xscale("log")
    return found


def memory_versus_accuracy(cells: pd.DataFrame) -> Figure | str:
    """Score over the memory that training takes beside the weights; a sentence where there is nothing to draw."""
    kinds = sorted(cells["memory_kind"].dropna().unique())
    if len(kinds) > 1:
        return f"memory was measured in several ways, which can't share an axis: {' and '.join(kinds)}"
    return _versus_accuracy(cells, "memory_bytes", MEGABYTE, f"memory in MB, {''.join(kinds)}", front=False)


def _versus_accuracy(cells: pd.DataFrame, cost: str, unit: float, label: str, *, front: bool) -> Figure | str:
    known = cells.dropna(subset=["mean", cost])
    if known.empty:
        return f"no scored run has its {cost}"
    figure, (axes,) = panels(1, 1)
    y, scale = metric_of(known)
    for name, look, own in series(known):
        x, score, (low, high) = own[cost].astype(float) / unit, scale * own["mean"], spread(own, scale)
        axes.errorbar(x, score, yerr=[score - low, high - score], color=look["color"], fmt="none", elinewidth=0.6)
        axes.plot(x, score, color=look["color"], linestyle=look["linestyle"], linewidth=0.8)
        sizes = [9 + 5 * (0 if pd.isna(rank) else math.log2(rank)) for rank in own["rank"]]
        filled: list[Any] = [look["color"] if on or not front else "white" for on in own["on_front"]]
        axes.scatter(x, score, s=sizes, marker=look["marker"], c=filled, edgecolors=look["color"], linewidths=0.8,
                     label=name, zorder=3)  # fmt: skip
    hollow = "hollow: off the Pareto front" if front and not known["on_front"].all() else ""
    marks = "; ".join(part for part in (hollow, focus(axes, scale * known["mean"])) if part)
    below = f"\n{marks}" if marks else ""
    finish(axes, f"{label}\n(bar: 95 % interval; larger: higher rank{below})", y)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure
