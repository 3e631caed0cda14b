"""Training curves: loss and validation over the steps, each method at its best rank."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.analysis.figures.style import Look, finish, legend_below, looks, panels

KINDS = ("loss", "validation")


def draw_training_curves(points: pd.DataFrame, validation: str) -> Figure | str:
    """Draw the curves of one task and model; a sentence where no run has any.

    Args:
        validation: what the validation score is, with its unit.
        points: a row a point of a run's history: `adapter`, `label`, `seed`, `step`, and `loss` or `validation`.
    """
    kinds = [kind for kind in KINDS if kind in points and points[kind].notna().any()]
    if not kinds:
        return "no run has a history"
    figure, axes = panels(len(kinds), 2)
    look_of = looks(points["adapter"])
    for panel, kind in zip(axes, kinds, strict=True):
        for (adapter, label), rows in points.dropna(subset=[kind]).groupby(["adapter", "label"], sort=True):
            _draw(panel, rows, kind, str(label), look_of[str(adapter)])
        finish(panel, "step (median and range over the seeds)", "training loss" if kind == "loss" else validation)
    legend_below(figure, *axes[0].get_legend_handles_labels())
    return figure


def _draw(axes: Axes, rows: pd.DataFrame, kind: str, label: str, look: Look) -> None:
    """One method's curve: the median over its seeds, and their range as a band."""
    steps = rows.groupby("step")[kind].agg(["median", "min", "max"])
    every = max(1, len(steps) // 5)  # about five markers tell the lines apart; one a step would hide them
    axes.plot(steps.index, steps["median"], label=label, markevery=every, **look)
    axes.fill_between(steps.index, steps["min"], steps["max"], color=look["color"], alpha=0.1, linewidth=0)


def histories(runs: pd.DataFrame, cells: pd.DataFrame, scale: float) -> pd.DataFrame:
    """The history of each method's runs at its best cell, as points, with the final validation as the last one.

    Args:
        runs: those of one task and model.
        cells: theirs, of one split; the best is the one with the best mean.
        scale: takes validation scores to the unit of the axis.
    """
    points = []
    for adapter, method_cells in cells.dropna(subset=["mean"]).groupby("adapter"):
        sign = 1 if method_cells["higher_is_better"].iloc[0] else -1
        best = method_cells.loc[(sign * method_cells["mean"]).idxmax()]
        label = str(adapter) if pd.isna(best["rank"]) else f"{adapter} r {best['rank']}"
        same_rank = runs["rank"].isna() if pd.isna(best["rank"]) else runs["rank"] == best["rank"]
        for run in runs[runs["run_id"].isin(best["run_ids"]) & same_rank.fillna(False)].itertuples():
            common = {"adapter": adapter, "label": label, "seed": run.seed}
            history = run.history if isinstance(run.history, list) else []
            # The final score is at the last step of the history, where a record has one.
            last = {"step": max((point["step"] for point in history), default=0), "validation": run.validation}
            points += [common | point for point in [*history, last]]
    points = pd.DataFrame(points, columns=["adapter", "label", "seed", "step", *KINDS])
    return points.assign(validation=scale * points["validation"])
