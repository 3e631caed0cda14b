"""Figures from the comparison table, legible in a two-column paper and to the colour-blind."""

import textwrap
from collections.abc import Iterator
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
DASHES = ("-", "--", ":", "-.")
SIZE = (5.2, 3.4)  # inches
LABEL_WIDTH = 32  # characters of a line in the legend


def rank_versus_accuracy(table: pd.DataFrame) -> Figure:
    """Validation score over rank, a line a method with one standard deviation; rank-free methods as dashed lines."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    known, scale = table.dropna(subset=["validation_mean"]), _metric(table, "validation")[1]
    for label, style, own in _series(known):
        if own["rank"].isna().all():
            flat = {"color": style["color"], "linestyle": "--", "linewidth": 1.2}
            axes.axhline(scale * own["validation_mean"].mean(), label=label, **flat)
            continue
        x, y = own["rank"].astype(float), scale * own["validation_mean"]
        spread = scale * own["validation_std"].fillna(0.0)
        axes.plot(x, y, label=label, **style)
        axes.fill_between(x, y - spread, y + spread, color=style["color"], alpha=0.15, linewidth=0)
    ranks = sorted({int(rank) for rank in known["rank"].dropna()})
    if ranks:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ranks))
        axes.set_xticklabels([str(rank) for rank in ranks])
        axes.xaxis.set_minor_locator(NullLocator())
    _finish(axes, table, "rank", "validation")
    return figure


def parameters_versus_accuracy(table: pd.DataFrame) -> Figure:
    """Test score over trained parameters (head included, log axis), with one standard deviation as bars."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    scale = _metric(table, "test")[1]
    for index, (label, style, own) in enumerate(_series(table.dropna(subset=["trained", "test_mean"]))):
        own = own.sort_values("trained")
        x, y = own["trained"].astype(float), scale * own["test_mean"]
        axes.errorbar(x, y, yerr=scale * own["test_std"].fillna(0.0), label=label, capsize=2, **style)
        for rank, at, height in zip(own["rank"], x, y, strict=True):
            if not pd.isna(rank):
                above: dict[str, Any] = {"xytext": (-5, 5), "ha": "right"}
                beside = above if index % 2 else {"xytext": (5, -10)}
                colour = style["color"]
                axes.annotate(f"{rank}", (at, height), **beside, textcoords="offset points", fontsize=7, color=colour)
    axes.set_xscale("log")
    _finish(axes, table, "trained parameters, head included (small numbers: rank)", "test")
    return figure


FIGURES = {"rank_versus_accuracy": rank_versus_accuracy, "parameters_versus_accuracy": parameters_versus_accuracy}


def save_all(table: pd.DataFrame, folder: Path) -> list[Path]:
    """Draw every figure as a PNG into `folder`, one of each for every task and model; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    groups = list(table.groupby(["task", "model"]))
    files = []
    for (task, model), own in groups:
        for name, draw in FIGURES.items():
            files.append(folder / (f"{name}.png" if len(groups) == 1 else f"{name}-{task}-{model}.png"))
            figure = draw(own)
            figure.savefig(files[-1], dpi=200)
            plt.close(figure)
    return files


def _series(table: pd.DataFrame) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """The lines of a figure: label, style and rows in order of rank.

    A method is one line, or one for each combination of those settings that vary among its rows, named in the label.
    """
    for index, (adapter, own) in enumerate(table.groupby("adapter", sort=True)):
        varying = [key for key in ("target", "lr", "scaling", "differs") if own[key].nunique(dropna=False) > 1]
        parts = list(own.groupby(varying, dropna=False)) if varying else [((), own)]
        for number, (values, rows) in enumerate(parts):
            named = [f"{key} {value}".removeprefix("differs ") for key, value in zip(varying, values, strict=True)]
            label = ", ".join([str(adapter), *named])
            colour, round_ = COLOURS[index % len(COLOURS)], index // len(COLOURS)  # another marker the next time round
            marker = MARKERS[(index + round_) % len(MARKERS)]
            style = {"color": colour, "marker": marker, "linestyle": DASHES[number % len(DASHES)]}
            yield label, style | {"markersize": 5, "linewidth": 1.5}, rows.sort_values("rank")


def _metric(table: pd.DataFrame, split: str) -> tuple[str, int]:
    """The name of a split's metric with its unit, and the factor that takes its values to that unit."""
    keys = ("validation_metric", "validation_unit") if split == "validation" else ("metric", "unit")
    name, unit = (table[key].dropna().max() for key in keys)
    return (f"{name} (%)", 100) if unit == "share" else (f"{name} ({unit})", 1)


def _finish(axes: Axes, table: pd.DataFrame, x: str, split: str) -> None:
    counts = sorted(set(table.loc[table["n"] > 0, "n"])) or [0]
    seeds = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    axes.set_title(f"{table['model'].iloc[0]} on {table['task'].iloc[0]}, seeds per point: {seeds}", fontsize=9)
    axes.set_xlabel(x)
    axes.set_ylabel(f"{split} {_metric(table, split)[0]}")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure = axes.get_figure(root=True)
    if figure is not None and axes.get_legend_handles_labels()[1]:
        lines, labels = axes.get_legend_handles_labels()
        wrapped = [textwrap.fill(label, LABEL_WIDTH) for label in labels]
        figure.legend(lines, wrapped, loc="outside right upper", fontsize=8, frameon=False)
