"""Rank versus accuracy: a line a method with its 95 % interval, methods without a rank as level lines."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from src.analysis.figures.style import finish, focus, interval_ends, legend_below, metric_of, panels, series

MOST_BANDS = 8  # of more than these, none can be told from the others


def draw_rank_versus_accuracy(cells: pd.DataFrame) -> Figure | str:
    """Draw a line for each method; a sentence where there is nothing to draw.

    Args:
        cells: those of one task, model and split; one without a rank is drawn at the same height for all ranks.
    """
    scored = cells.dropna(subset=["mean"])
    if scored["rank"].dropna().empty:
        return "no scored run has a rank"
    figure, (axes,) = panels(1, 1)
    y, scale = metric_of(scored)
    lines = list(series(scored))
    for label, look, line in lines:
        low, high = interval_ends(line, scale)
        if line["rank"].isna().all():
            axes.axhline(scale * line["mean"].mean(), label=label, color=look["color"], linestyle="--", linewidth=0.9)
            continue
        ranks = line["rank"].astype(float)
        axes.plot(ranks, scale * line["mean"], label=label, **look)
        if len(lines) <= MOST_BANDS:
            axes.fill_between(ranks, low, high, color=look["color"], alpha=0.12, linewidth=0)
    _rank_axis(axes, sorted({int(rank) for rank in scored["rank"].dropna()}))
    outside = focus(axes, scale * scored["mean"])
    band = "band: 95 % interval" if len(lines) <= MOST_BANDS else "intervals: see the table"
    finish(axes, f"rank ({band}{'; ' + outside if outside else ''})", y)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def _rank_axis(axes: Axes, ranks: list[int]) -> None:
    """A logarithmic axis with a tick at each rank that was run, and at no other."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ranks))
    axes.set_xticklabels([str(rank) for rank in ranks])
    axes.xaxis.set_minor_locator(NullLocator())  # else a log axis labels ranks that weren't run
