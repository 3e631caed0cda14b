"""Learning-rate curves: what the trials of each method showed on validation, and which rate was chosen."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D

from src.analysis.figures.style import (
    DASHES,
    MARKERS,
    Drawing,
    Look,
    NothingToDrawError,
    below,
    finish,
    focus,
    log_scale,
    looks,
    panels,
)

BROKEN = 0.5  # of the trials may be left out: a score after training broke down is only noise
COLUMNS = 3
PANEL = 0.95  # inches high
FRAME = 0.3  # inches, for the labels of rates
RING: dict[str, Any] = {"s": 45, "clip_on": False, "facecolors": "none", "edgecolors": "black", "linewidths": 0.8}


def draw_learning_rate_curves(trials: pd.DataFrame) -> Drawing:
    """Draw the trials of one task and model, a panel a method, a line a rank.

    Args:
        trials: the rows of `src.analysis.trials.trials`.

    Raises:
        NothingToDrawError: there are no trials.
    """
    if trials["validation"].dropna().empty:
        raise NothingToDrawError("no run has trials of its learning rate")
    unit = trials["unit"].dropna().iloc[0]
    scale = 100.0 if unit == "share" else 1.0
    trials = trials.assign(validation=scale * trials["validation"], cell=_names(trials))
    methods = list(trials.groupby("adapter", sort=True))
    figure, axes = panels(len(methods), COLUMNS, PANEL if len(methods) > COLUMNS else 1.5 * PANEL)
    figure.set_figheight(figure.get_figheight() + FRAME)
    line_of, outside = _lines(trials), 0
    for panel, (method, rows) in zip(axes, methods, strict=True):
        color = looks(trials["adapter"])[str(method)]["color"]
        # Methods differ by color, as in the other figures, and the cells of a method by dash and marker.
        look_of = {cell: look | {"color": color} for cell, look in line_of.items()}
        _draw(panel, rows, look_of, trials["validation"].min())
        panel.set_title(str(method), pad=3)
        outside += focus(panel, rows["validation"].dropna(), few=BROKEN) != ""
        axis = str(rows["axis"].iloc[0])
        is_lowest = panel in axes[-COLUMNS:]
        finish(panel, axis.rpartition(".")[2] if is_lowest or axis != "lr" else "", "")
    lines = {cell: Line2D([], [], color="black", **look) for cell, look in line_of.items()} if len(line_of) > 1 else {}
    handles = lines | _marks(axes[0], trials)
    cut = f" {outside} of {len(methods)} panels leave out points far off." if outside else ""
    caption = f"A point is a trial on validation, with a seed of its own.{cut}"
    bottom = below(figure, caption, list(handles.values()), list(handles))
    figure.supylabel(f"validation ({'%' if unit == 'share' else unit})", y=(1 + bottom) / 2, fontsize=7.5)
    return figure


def _marks(axes: Axes, trials: pd.DataFrame) -> dict[str, Line2D | PathCollection]:
    """What the marks mean, those that are there."""
    marks: dict[str, Line2D | PathCollection] = {}
    chosen = trials[trials["chosen"]]
    for name, rows, line in (("chosen", chosen[~chosen["at_edge"]], "-"),
                             ("chosen, at an edge", chosen[chosen["at_edge"]], ":")):  # fmt: skip
        if len(rows):
            # An empty plot draws nothing and gives the legend its handle.
            marks[name] = axes.scatter([], [], **RING, linestyles=[line])
    if trials["validation"].isna().any():
        marks["diverged or failed"] = Line2D([], [], color="black", marker="x", linestyle="")
    return marks


def _names(trials: pd.DataFrame) -> list[str]:
    """The cells in words: their rank, and the target where methods have several."""
    several = trials["target"].nunique() > 1
    pairs = zip(trials["rank"], trials["target"], strict=True)
    return [
        "no rank" if pd.isna(rank) else f"rank {rank}" + (f", {target}" if several else "") for rank, target in pairs
    ]


def _lines(trials: pd.DataFrame) -> dict[str, Look]:
    """A dash and a marker for each cell, in the order of rank."""
    names = trials.sort_values(["rank", "target"], na_position="first")["cell"].unique()
    return {
        name: {"linestyle": DASHES[index % len(DASHES)], "marker": MARKERS[index % len(MARKERS)]}
        for index, name in enumerate(names)
    }


def _draw(axes: Axes, rows: pd.DataFrame, look_of: dict[str, Look], bottom: float) -> None:
    """A method's trials: a line a cell through the means over seeds, a ring around the chosen rate, dots for the scores
    of rates with several, crosses at `bottom` for lost trials.
    """
    for cell, trials_of_cell in rows.groupby("cell", sort=True):
        trials_of_cell = trials_of_cell.sort_values("value")
        look, is_scored = look_of[str(cell)], trials_of_cell["validation"].notna()
        scored, lost = trials_of_cell[is_scored], trials_of_cell[~is_scored]
        means = scored.groupby("value")["validation"].mean()
        axes.plot(means.index, means, **look)
        several = scored[scored.duplicated("value", keep=False)]
        if len(several):
            axes.plot(several["value"], several["validation"], ".", color=look["color"], alpha=0.5)
        # A lost trial has no score; a cross at the bottom says at which rate it was lost.
        axes.plot(lost["value"], [bottom] * len(lost), "x", color=look["color"])
        for value, chosen in scored[scored["chosen"]].groupby("value"):
            line = ":" if chosen["at_edge"].all() else "-"
            axes.scatter(value, means[value], **RING, linestyles=[line], zorder=3)
    log_scale(axes)
