"""Figures from the comparison table, legible in a two-column paper and to the colour-blind."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

# The palette of Okabe and Ito (2008), and a marker each, so that no figure depends on colour alone.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
SIZE = (5.2, 3.4)  # inches


def rank_versus_accuracy(table: pd.DataFrame) -> Figure:
    """Validation score over rank, a line a method with one standard deviation; rank-free methods as dashed lines."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    ranked = table.dropna(subset=["rank", "validation_mean"])
    for (adapter, target), own in ranked.groupby(["adapter", "target"], sort=True):
        own = own.sort_values("rank")
        x, y = own["rank"].astype(float), 100 * own["validation_mean"]
        spread = 100 * own["validation_std"].fillna(0.0)
        axes.plot(x, y, label=_label(ranked, adapter, target), **_style(table, adapter))
        axes.fill_between(x, y - spread, y + spread, color=_style(table, adapter)["color"], alpha=0.15, linewidth=0)
    rank_free = table[table["rank"].isna()].dropna(subset=["validation_mean"])
    for adapter, mean in zip(rank_free["adapter"], rank_free["validation_mean"], strict=True):
        axes.axhline(100 * mean, linestyle="--", linewidth=1.2, color=_style(table, adapter)["color"], label=adapter)
    if not ranked.empty:
        axes.set_xscale("log", base=2)
        ranks = sorted({int(rank) for rank in ranked["rank"]})
        axes.xaxis.set_major_locator(FixedLocator(ranks))
        axes.set_xticklabels([str(rank) for rank in ranks])
        axes.xaxis.set_minor_locator(NullLocator())
    _finish(axes, table, "rank", "validation accuracy (%)")
    return figure


def parameters_versus_accuracy(table: pd.DataFrame) -> Figure:
    """Test score over trained parameters (head included, log axis), with one standard deviation as bars."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    known = table.dropna(subset=["trained", "test_mean"])
    for adapter, own in known.groupby("adapter", sort=True):
        own = own.sort_values("trained")
        axes.errorbar(
            own["trained"].astype(float),
            100 * own["test_mean"],
            yerr=100 * own["test_std"].fillna(0.0),
            label=adapter,
            capsize=2,
            **_style(table, adapter),
        )
        for rank, x, y in zip(own["rank"], own["trained"], own["test_mean"], strict=True):
            if not pd.isna(rank):
                axes.annotate(f"{rank}", (x, 100 * y), xytext=(3, -10), textcoords="offset points", fontsize=7)
    axes.set_xscale("log")
    _finish(axes, table, "trained parameters, head included (numbers: rank)", "test accuracy (%)")
    return figure


FIGURES = {"rank_versus_accuracy": rank_versus_accuracy, "parameters_versus_accuracy": parameters_versus_accuracy}


def save_all(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw every figure as a PNG into `folder`; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, draw in FIGURES.items():
        figure = draw(table)
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=200)
        plt.close(figure)
    return files


def _style(table: pd.DataFrame, adapter: str) -> dict[str, Any]:
    """A method's colour and marker, the same in every figure of one table."""
    index = sorted(table["adapter"].unique()).index(adapter) % len(COLOURS)
    return {"color": COLOURS[index], "marker": MARKERS[index], "markersize": 5, "linewidth": 1.5}


def _label(table: pd.DataFrame, adapter: str, target: str) -> str:
    return adapter if table["target"].nunique() == 1 else f"{adapter}, {target}"


def _finish(axes: Axes, table: pd.DataFrame, x: str, y: str) -> None:
    counts = sorted(table.loc[table["n"] > 0, "n"].unique())
    seeds = "-".join(str(count) for count in {counts[0], counts[-1]}) if counts else "0"
    axes.set_title(f"{table['model'].iloc[0]} on {table['task'].iloc[0]} (n = {seeds} per point)", fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
