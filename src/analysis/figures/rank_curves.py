"""Rank curves: a small panel for each method, bright before all others in grey, with its 95 % interval as a band."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from src.analysis.figures.style import (
    CHARACTER,
    WIDTH,
    Drawing,
    Look,
    NothingToDrawError,
    below,
    finish,
    focus,
    interval_ends,
    looks,
    metric_of,
    panels,
    series,
)

COLUMNS = 3
PANEL, ALONE = 0.85, 1.15  # inches, the height of a panel in several rows, and in one
FRAME = 0.3  # inches, for the labels of ranks
MARGIN = 0.4  # inches, left of the panels
TICKS = 4  # labels of ranks that fit below a panel
LEVELS = ("--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))  # dashes of methods without a rank
OTHERS = "#C8C8C8"
Line = tuple[str, Look, pd.DataFrame]


def draw_rank_curves(cells: pd.DataFrame) -> Drawing:
    """Draw a panel for each line with a rank; methods without one are level lines in all of them.

    Args:
        cells: those of one task, model and split.

    Raises:
        NothingToDrawError: no scored cell has a rank.
    """
    scored = cells.dropna(subset=["mean"])
    if scored["rank"].dropna().empty:
        raise NothingToDrawError("no scored run has a rank")
    y, scale = metric_of(scored)
    lines = list(series(scored))
    ranked = [line for line in lines if line[2]["rank"].notna().any()]
    levels = _levels([line for line in lines if line[2]["rank"].isna().all()], scale)
    columns = COLUMNS if len(ranked) > 4 or len(ranked) == COLUMNS else 2
    figure, axes = panels(len(ranked), columns, PANEL if len(ranked) > columns else ALONE, share=True)
    figure.set_figheight(figure.get_figheight() + FRAME)
    for panel, (label, look, line) in zip(axes, ranked, strict=True):
        for _, _, other in ranked:
            panel.plot(other["rank"].astype(float), scale * other["mean"], color=OTHERS, linewidth=0.7)
        for height, style in levels.values():
            panel.axhline(height, **style)
        _draw_line(panel, line, look, scale)
        width = int((WIDTH - MARGIN) / min(columns, len(ranked)) / (1.15 * CHARACTER))
        panel.set_title("\n".join(textwrap.wrap(label, width)), pad=2, color=look["color"])
    _rank_axis(axes, sorted({int(rank) for rank in scored["rank"].dropna()}))
    outside = focus(axes[0], scale * scored["mean"], intervals=interval_ends(scored, scale))
    for index, panel in enumerate(axes):
        is_lowest = index + columns >= len(axes)
        finish(panel, "rank" if index // columns == (len(axes) - 1) // columns else "", "")
        panel.tick_params(labelbottom=is_lowest)
    handles = [Line2D([], [], **style) for _, style in levels.values()]
    bottom = below(figure, _caption(len(ranked), bool(levels), outside), handles, list(levels))
    figure.supylabel(y, y=(1 + bottom) / 2, fontsize=7.5)
    return figure


def _levels(lines: list[Line], scale: float) -> dict[str, tuple[float, Look]]:
    """The height and the look of each method without a rank, by its label."""
    styles = {}
    for index, (label, look) in enumerate(looks(label for label, _, _ in lines).items()):
        again = index // 8  # colors repeat after eight, and then with another dash
        dash = LEVELS[(index + again) % len(LEVELS)]
        styles[label] = {"color": look["color"], "linestyle": dash, "linewidth": 0.8, "zorder": 1}
    return {label: (scale * float(line["mean"].mean()), styles[label]) for label, _, line in lines}


def _draw_line(axes: Axes, line: pd.DataFrame, look: Look, scale: float) -> None:
    """A method's own line with its band, before the others."""
    low, high = interval_ends(line, scale)
    ranks = line["rank"].astype(float)
    axes.fill_between(ranks, low, high, color=look["color"], alpha=0.18, linewidth=0)
    if len(line) == 1:  # a band of one rank has no width
        axes.plot([ranks.iloc[0]] * 2, [low.iloc[0], high.iloc[0]], color=look["color"], alpha=0.4)
    axes.plot(ranks, scale * line["mean"], **look | {"linestyle": "-"})


def _rank_axis(axes: list[Axes], ranks: list[int]) -> None:
    """A logarithmic axis with ticks at ranks that were run, as many as there is room for, and at no other."""
    axes[0].set_xscale("log", base=2)  # shared by all
    # Spread evenly, the first and the last among them.
    chosen = np.unique(np.linspace(0, len(ranks) - 1, min(TICKS, len(ranks))).round().astype(int))
    for panel in axes:
        panel.xaxis.set_major_locator(FixedLocator([ranks[index] for index in chosen]))
        panel.xaxis.set_major_formatter(lambda rank, _: f"{rank:g}")
        panel.xaxis.set_minor_locator(NullLocator())  # else a log axis labels ranks that weren't run


def _caption(count: int, has_levels: bool, outside: str) -> str:
    """What the lines mean, and what isn't shown."""
    parts = ["Band: 95 % interval over seeds and items."]
    parts += ["Grey: the other panels' methods."] if count > 1 else []
    parts += ["Level lines: methods without a rank."] if has_levels else []
    return " ".join([*parts, *([f"{outside[0].upper()}{outside[1:]}."] if outside else [])])
