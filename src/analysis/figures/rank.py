"""Rank versus accuracy: a line a method with its 95 % interval, methods without a rank as level lines."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from src.analysis.figures.style import finish, focus, legend_below, metric_of, panels, series, spread

MOST_BANDS = 8  # of more, none can be told from the others


def rank_versus_accuracy(cells: pd.DataFrame) -> Figure | str:
    """Draw the cells of one task, model and split; a sentence where there is nothing to draw."""
    known = cells.dropna(subset=["mean"])
    if known["rank"].dropna().empty:
        return "no scored run has a rank"
    figure, (axes,) = panels(1, 1)
    y, scale = metric_of(known)
    lines = list(series(known))
    for label, look, own in lines:
        low, high = spread(own, scale)
        if own["rank"].isna().all():
            axes.axhline(scale * own["mean"].mean(), label=label, color=look["color"], linestyle="--", linewidth=0.9)
            continue
        ranks = own["rank"].astype(float)
        axes.plot(ranks, scale * own["mean"], label=label, **look)
        if len(lines) <= MOST_BANDS:
            axes.fill_between(ranks, low, high, color=look["color"], alpha=0.12, linewidth=0)
    _rank_axis(axes, sorted({int(rank) for rank in known["rank"].dropna()}))
    outside = focus(axes, scale * known["mean"])
    band = "band: 95 % interval" if len(lines) <= MOST_BANDS else "intervals: see the table"
    finish(axes, f"rank ({band}{'; ' + outside if outside else ''})", y)
    legend_below(figure, *axes.get_legend_handles_labels())
    return figure


def _rank_axis(axes: Axes, ranks: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(ranks))
    axes.set_xticklabels([str(rank) for rank in ranks])
    axes.xaxis.set_minor_locator(NullLocator())
