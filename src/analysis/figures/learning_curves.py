"""Learning curves: loss and validation over the steps, each method at its best rank."""

import pandas as pd
from matplotlib.axes import Axes

from src.analysis.figures.style import Drawing, Look, NothingToDrawError, below, finish, focus, looks, panels

PANEL = 1.6  # inches high
BANDS = 6  # lines at most that have one; more would hide each other
KINDS = {"train_loss": "training loss", "validation_score": ""}


def draw_learning_curves(curves: pd.DataFrame, validation: str, scale: float) -> Drawing:
    """Draw the loss above the validation score, a line a cell.

    Args:
        curves: rows of `src.analysis.tidy.curve_rows`, those of one task and model.
        validation: what the validation score is, with its unit.
        scale: takes validation scores to that unit.

    Raises:
        NothingToDrawError: no run has a history.
    """
    curves = curves.assign(validation_score=scale * curves["validation_score"].astype(float))
    kinds = [kind for kind in KINDS if curves[kind].notna().any()]
    if not kinds:
        raise NothingToDrawError("no run has a history")
    figure, axes = panels(len(kinds), 1, PANEL)
    look_of = looks(curves["adapter"])
    has_bands = curves["cell"].nunique() <= BANDS
    outside = 0
    for panel, kind in zip(axes, kinds, strict=True):
        for (adapter, cell), rows in curves.dropna(subset=[kind]).groupby(["adapter", "cell"], sort=True):
            _draw(panel, rows, kind, str(cell), look_of[str(adapter)], has_band=has_bands)
        outside += focus(panel, curves.dropna(subset=[kind]).groupby("cell")[kind].last().astype(float)) != ""
        finish(panel, "step" if panel is axes[-1] else "", KINDS[kind] or validation)
    several = curves.groupby("cell")["seed"].nunique().max() > 1
    caption = "Line: median over the seeds." if several else "One seed each."
    caption += " Band: their range." if several and has_bands else ""
    caption = f"Each method at its best rank. {caption}{' Curves far off are left out.' if outside else ''}"
    below(figure, caption, *axes[0].get_legend_handles_labels())
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, kind: str, label: str, look: Look, *, has_band: bool) -> None:
    """One cell's curve: the median over its seeds, and where it is to have one, their range as a band."""
    steps = rows.groupby("step")[kind].agg(["median", "min", "max"]).astype(float)
    every = max(1, len(steps) // 5)  # about five markers tell the lines apart; one a step would hide them
    axes.plot(steps.index, steps["median"], label=label, markevery=every, **look)
    if has_band:
        axes.fill_between(steps.index, steps["min"], steps["max"], color=look["color"], alpha=0.1, linewidth=0)


def best_cells(cells: pd.DataFrame) -> list[int]:
    """The index of each method's best cell that was trained itself, and didn't come of a larger rank's training.

    Args:
        cells: those of one task, model and split; methods without a score have none.
    """
    nested = cells["trained_rank"].notna() & (cells["trained_rank"] != cells["rank"]).fillna(False)
    scored = cells[~nested.astype(bool)].dropna(subset=["mean"])
    sign = 1 if scored.empty or bool(scored["higher_is_better"].iloc[0]) else -1
    return [int((sign * rows["mean"]).idxmax()) for _, rows in scored.groupby("adapter", sort=True)]
